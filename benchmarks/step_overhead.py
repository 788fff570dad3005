"""How much longer a training step takes under injection than without: the two in turn, one thread.

    python benchmarks/step_overhead.py [--steps N] [--models alexnet lenet5 gpt] [--sites]

With ``--sites``, a second table shows a fault at every kind of site on LeNet-5, where sums cost most.

Compared with: the same step of the same model outside the `with` block, in the same process. Each pair of steps (one
plain, one faulty, in alternating order) gives one ratio; the table shows the median ratio, and the quartiles of the
ratios as a measure of the machine's noise.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F  # noqa: N812

import miscompute as mc
from miscompute.tasks import build_model

FAULT = mc.parse_fault("weight[0,0] bit 28 stuck-at 0")
ROWS = {"alexnet": (128, 1.03), "lenet5": (64, 1.07), "gpt": (32, 1.05)}  # batch, target
SITES = (
    "weight[0,0] bit 28 stuck-at 0",
    "activation[0,0] bit 28 stuck-at 0",
    "valid[0,0] bit 0 stuck-at 0",
    "product[0,0] bit 28 stuck-at 0",
    "adder[0,0] bit 28 stuck-at 0",
    "cell[0] bit 28 stuck-at 0",
    "accumulator[0] bit 28 stuck-at 0",
    "output[0] bit 28 stuck-at 0",
    "weight-memory[conv1.weight,0] bit 28 stuck-at 0",
    "gradient-memory[conv1.weight,0] bit 28 stuck-at 0",
    "result-elements[0,16] bit 28 stuck-at 0",
)


def step_of(name: str, batch: int) -> tuple[torch.nn.Module, Callable[[], None]]:
    channels = 3 if name == "alexnet" else 1
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


def ratios(name: str, batch: int, steps: int, fault: mc.Fault = FAULT) -> tuple[list[float], float]:
    model, step = step_of(name, batch)
    injection = mc.inject(model, fault, array=mc.nvdla_small())

    def faulty() -> float:
        with injection:
            return seconds(step)

    for _ in range(5):
        seconds(step)
        faulty()
    found, plain_seconds = [], []
    for pair in range(steps):
        if pair % 2:
            injected, plain = faulty(), seconds(step)
        else:
            plain, injected = seconds(step), faulty()
        found.append(injected / plain)
        plain_seconds.append(plain)
    return found, statistics.median(plain_seconds)


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
    parser.add_argument("--sites", action="store_true", help="every kind of site too, on LeNet-5")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    console = Console(width=110)
    table = table_of(f"a training step with {FAULT} on 8 x 8 MACs, against the same step without; one thread", "model")
    for name in asked.models:
        batch, target = ROWS[name]
        table.add_row(*row(f"{name}, batch {batch}", *ratios(name, batch, asked.steps), f"<= {target}"))
    console.print(table)
    if asked.sites:
        table = table_of("LeNet-5, batch 64, by site; fp32", "fault")
        for text in SITES:
            found = ratios("lenet5", 64, max(4, asked.steps // 20), mc.parse_fault(text))
            table.add_row(*row(text.replace("[", r"\["), *found, "-"))
        console.print(table)


if __name__ == "__main__":
    main()
