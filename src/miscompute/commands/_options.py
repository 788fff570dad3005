"""What several commands share: their options, and how they show what they do."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_FAULT = "weight[0,0] bit 28 stuck-at 0"

_MODELS = "alexnet, lenet5, resnet18, resnet18_nobn, resnet20, mlp or gpt"

Model = Annotated[str | None, typer.Option(help=f"{_MODELS}; default: what the data set's recipe says.")]
Width = Annotated[
    float | None,
    typer.Option(help="Scales the model's hidden channels; default: the recipe's, or 1 for another model."),
]
ArrayName = Annotated[
    str,
    typer.Option(
        "--array",
        help="nvdla-small, nvdla-large, systolic-ws, systolic-os, simd, ...; of any size: nvdla-16x4, systolic-ws-8x8.",
    ),
]
FaultText = Annotated[str, typer.Option("--fault", help="Such as 'weight[0,0] bit 28 stuck-at 0'.")]
GradWeight = Annotated[str | None, typer.Option(help="How weight gradients lie on NVDLA's core: A (default) or B.")]
ImageMode = Annotated[
    str | None, typer.Option(help="Which layer NVDLA computes in image mode: none (default) or first.")
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="A state_dict that torch.save wrote; default: trained by the data's recipe first."),
]
Data = Annotated[str, typer.Option(help="cluttered_digits, cifar10 or tiny_shakespeare.")]
DataFolder = Annotated[Path | None, typer.Option(help="Where the data set is.")]
BatchSize = Annotated[int | None, typer.Option(help="Images, or windows of text, a step.")]
TrainedModel = Annotated[str, typer.Option(help=f"{_MODELS}.")]
TrainedSteps = Annotated[int | None, typer.Option(help="Of the training without a checkpoint.")]
StoredFormat = Annotated[
    str, typer.Option("--format", help="fp32, bf16, fp16, fp8_e4m3, fp8_e5m2, int8:max or int16:max.")
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write scalars into the folder's tensorboard too; needs the extra.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]


@contextmanager
def progress_bars(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Show bars with the time left; inside, tell it what is done, how much, and of how much."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:

        def report(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=total)
            progress.update(bars[name], completed=done, total=total)

        yield report


def print_table(table: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(table)  # in a file or a pipe, a row is a line


def run_folder(names: str, settings: dict[str, Any], usual: dict[str, Any]) -> Path:
    """Name a run directory: what it is about, and a short hash of the settings that are not the usual ones, if any."""
    words = re.sub(r"[^a-z0-9]+", "-", names.lower())
    others = {name: value for name, value in settings.items() if value != usual[name]}
    more = f"-{sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()[:6]}" if others else ""
    return Path("runs") / f"{words}{more}"


def array_of(name: str, **options: Any) -> Any:
    """Build an array by name with the options that were given."""
    from ..hardware import array_named

    return array_named(name, **{option: value for option, value in options.items() if value is not None})
