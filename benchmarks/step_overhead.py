"""How much longer a training step takes under injection than without: the two in turn, one thread.

    python benchmarks/step_overhead.py [--steps N] [--models alexnet lenet5 gpt]
    python benchmarks/step_overhead.py --sites lenet5 alexnet [--seconds N] [--only weight adder ...]

With ``--sites`` a table for each model shows a fault at every kind of site that it has, for docs/sites.md: on NVDLA's
8 x 8 MACs, or else on the first of `PLACES` that has the site. A site takes ``--seconds``, but three pairs of steps at
least.

Compared with: the same step of the same model outside the `with` block, in the same process. Each pair of steps (one
plain, one faulty, in alternating order) gives one ratio; the table shows the median ratio, and the quartiles of the
ratios as a measure of the machine's noise.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import suppress

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F  # noqa: N812

import miscompute as mc
from miscompute.fault import SITES
from miscompute.hardware import Array, array_named
from miscompute.tasks import build_model

FAULT = mc.parse_fault("weight[0,0] bit 28 stuck-at 0")
ROWS = {"alexnet": (128, 1.03), "lenet5": (64, 1.07), "gpt": (32, 1.05)}  # batch, target
PLACES = ("nvdla-small", "systolic-ws-8x8", "systolic-os-8x8")
BATCHES = {"alexnet": 16, "lenet5": 64, "resnet20": 16, "gpt": 8}  # by site: sums of a large batch would take minutes


def step_of(name: str, batch: int) -> tuple[torch.nn.Module, Callable[[], None]]:
    channels = 3 if name in ("alexnet", "resnet20") else 1
    if name == "gpt":  # 4 layers, 128 wide, windows of 64 tokens
        model = build_model(name, context=64, classes=65)
        inputs, labels = torch.randint(0, 65, (batch, 64)), torch.randint(0, 65, (batch, 64))
    else:
        model = build_model(name, channels=channels, classes=10)
        inputs, labels = torch.randn(batch, channels, 32, 32), torch.randint(0, 10, (batch,))
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        scores = model(inputs)
        F.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels.reshape(-1)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return model, step


def seconds(step: Callable[[], None]) -> float:
    """Time the second of two steps, so that either kind finds its own memory and caches."""
    step()
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def ratios(
    model: torch.nn.Module,
    step: Callable[[], None],
    *,
    fault: mc.Fault = FAULT,
    array: Array | None = None,
    pairs: Callable[[int, float], bool],
    warm: int = 5,
) -> tuple[list[float], float]:
    """Time pairs of steps for as long as ``pairs`` wants, told how many there are and how many seconds they took."""
    injection = mc.inject(model, fault, array=array or mc.nvdla_small())

    def faulty() -> float:
        with injection:
            return seconds(step)

    for _ in range(warm):
        seconds(step)
        faulty()
    found, plain_seconds = list[float](), list[float]()
    began = time.perf_counter()
    while pairs(len(found), time.perf_counter() - began):
        if len(found) % 2:
            injected, plain = faulty(), seconds(step)
        else:
            plain, injected = seconds(step), faulty()
        found.append(injected / plain)
        plain_seconds.append(plain)
    return found, statistics.median(plain_seconds)


def fault_at(word: str, model: torch.nn.Module) -> mc.Fault | None:
    """Give a permanent fault at a site of a model; None: the model has no such memory."""
    parameter = next(name for name, _ in model.named_parameters())
    names = {
        "activation-memory": parameter.removesuffix(".weight"),
        "statistics-memory": next((name for name, buffer in model.named_buffers() if buffer.dim()), None),
    }
    # Row 0 of an accumulator is what arrays with one a column have.
    place = {
        "row": int(word == "accumulator-pe"),
        "level": 1,
        "length": 16,
        "name": names.get(word, parameter),
        "state": "exp_avg",
    }
    if place["name"] is None:
        return None
    index = ",".join(str(place.get(name, 0)) for name in SITES[word].indices)
    return mc.parse_fault(f"{word}[{index}] bit {0 if word == 'valid' else 28} stuck-at 0")


def array_for(fault: mc.Fault) -> tuple[str, Array]:
    """Give the first array that has a site, and its name."""
    for name in PLACES:
        array = array_named(name)
        with suppress(mc.InvalidInput):
            fault.check(array)
            return name, array
    raise AssertionError(f"no array has {fault.site}")


def table_of(title: str, first: str) -> Table:
    table = Table(title=title)
    for heading in (first, "plain, ms", "ratio (median)", "quartiles", "target"):
        table.add_column(heading, justify="left" if heading == first else "right")
    return table


def row(label: str, found: list[float], plain: float, target: str) -> tuple[str, ...]:
    low, median, high = statistics.quantiles(found, n=4)
    return label, f"{1000 * plain:.1f}", f"{median:.3f}", f"{low:.3f}..{high:.3f}", target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="pairs of steps for each model")
    parser.add_argument("--models", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--sites", nargs="+", choices=BATCHES, help="every kind of site, on these models")
    parser.add_argument("--only", nargs="+", default=list(SITES), choices=SITES, help="of the sites")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each site")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    console = Console(width=110)
    for name in asked.sites or ():
        model, step = step_of(name, BATCHES[name])
        table = table_of(f"{name}, batch {BATCHES[name]}, by site; fp32, one thread", "site")
        for word in asked.only:
            fault = fault_at(word, model)
            if fault is None:
                table.add_row(word, "-", "the model has none", "-", "-")
                continue
            on, array = array_for(fault)
            found = ratios(
                model,
                step,
                fault=fault,
                array=array,
                pairs=lambda done, spent: done < 3 or (spent < asked.seconds and done < asked.steps),
                warm=1,
            )
            table.add_row(*row(word, *found, "-" if on == "nvdla-small" else f"on {on}"))
        console.print(table)
    if asked.sites:
        return
    table = table_of(f"a training step with {FAULT} on 8 x 8 MACs, against the same step without; one thread", "model")
    for name in asked.models:
        batch, target = ROWS[name]
        found = ratios(*step_of(name, batch), pairs=lambda done, _: done < asked.steps)
        table.add_row(*row(f"{name}, batch {batch}", *found, f"<= {target}"))
    console.print(table)


if __name__ == "__main__":
    main()
