"""Train with a fault and without."""

from pathlib import Path
from typing import Annotated

import typer

from .._invalid import InvalidInput
from ._options import (
    DEFAULT_FAULT,
    ArrayName,
    BatchSize,
    Data,
    DataFolder,
    FaultText,
    GradWeight,
    ImageMode,
    Model,
    Quiet,
    TensorBoard,
    Width,
    array_of,
    print_table,
    run_folder,
)


def train(
    data: Data = "cluttered_digits",
    model: Model = None,
    width: Width = None,
    array: ArrayName = "nvdla-small",
    fault: FaultText = DEFAULT_FAULT,
    grad_weight: GradWeight = None,
    image_mode: ImageMode = None,
    swizzle: Annotated[
        list[str] | None, typer.Option(help="A swizzle to run with the fault; may be repeated; 'none' for none.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Decides weights, order and augmentation.")] = None,
    golden_seeds: Annotated[int, typer.Option(help="How many fault-free runs give the spread.")] = 5,
    optimizer: Annotated[str | None, typer.Option(help="adam, adamw or sgd.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of sgd.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of any optimizer.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, cosine or one-cycle.")] = None,
    batch_size: BatchSize = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    evaluate_every: Annotated[int | None, typer.Option(help="Steps between evaluations.")] = None,
    validation_examples: Annotated[int | None, typer.Option(help="How many an evaluation takes; default: all.")] = None,
    data_folder: DataFolder = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; default: a name under runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue what the run directory holds.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at once; default: one a processor.")] = None,
    tensorboard: TensorBoard = False,
    quiet: Quiet = False,
) -> None:
    """Train with a fault and without, and judge what the fault did.

    Golden runs of several seeds, the faulty run and the faulty run with channel swizzling, each evaluated on the faulty
    and on a healthy machine; prints a table and draws a figure.
    """
    from ..experiment import Experiment
    from ..experiment import train as run_experiment
    from ..fault import parse_fault
    from ..tasks import recipe_for

    recipe = recipe_for(
        data,
        model=model,
        width=width,
        seed=seed,
        optimizer=optimizer,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,
        batch_size=batch_size,
        steps=steps,
        evaluate_every=evaluate_every,
        validation_examples=validation_examples,
    )
    if momentum is not None and recipe.optimizer != "sgd":
        raise InvalidInput(
            f"momentum={momentum} is of sgd, not of {recipe.optimizer}; leave it out or add --optimizer sgd"
        )
    experiment = Experiment(
        recipe=recipe,
        array=array_of(array, grad_weight=grad_weight, image_mode=image_mode),
        fault=parse_fault(fault),
        golden_seeds=golden_seeds,
        swizzles=tuple(name for name in swizzle or ["step"] if name != "none"),
    )
    if out is None:
        usual = recipe_for(data, model=recipe.model, seed=recipe.seed)
        names = f"{recipe.model}-{data}-{array}-{fault}-seed-{recipe.seed}"
        given = {
            "grad_weight": grad_weight,
            "image_mode": image_mode,
            "golden_seeds": golden_seeds,
            "swizzles": experiment.swizzles,
        }
        defaults = {"grad_weight": None, "image_mode": None, "golden_seeds": 5, "swizzles": ("step",)}
        out = run_folder(names, vars(recipe) | given, vars(usual) | defaults)
    result = run_experiment(
        experiment, out, resume=resume, data_folder=data_folder, workers=workers, tensorboard=tensorboard, quiet=quiet
    )
    from ..report import curves_chart, outcome_table, write_chart  # not before: it would keep the runs waiting

    print_table(outcome_table(result))
    png, html = write_chart(curves_chart(result), out / "curves")
    print(f"figure: {png} (interactive: {html})\nrun directory: {out}")
