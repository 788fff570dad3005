"""How much longer a training step takes under injection than without: the two in turn, one thread.

    python benchmarks/step_overhead.py [--steps N]

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
ROWS = (("alexnet", 3, 128, 1.03), ("lenet5", 1, 64, 1.07))


def step_of(name: str, channels: int, batch: int) -> tuple[torch.nn.Module, Callable[[], None]]:
    model = build_model(name, channels=channels, classes=10)
    optimizer = torch.optim.Adam(model.parameters())
    images, labels = torch.randn(batch, channels, 32, 32), torch.randint(0, 10, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return model, step


def seconds(step: Callable[[], None]) -> float:
    """Time the second of two steps, so that either kind finds its own memory and caches."""
    step()
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def ratios(name: str, channels: int, batch: int, steps: int) -> tuple[list[float], float]:
    model, step = step_of(name, channels, batch)
    injection = mc.inject(model, FAULT, array=mc.nvdla_small())

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="pairs of steps for each model")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = Table(title=f"a training step with {FAULT} on 8 x 8 MACs, against the same step without; one thread")
    for heading in ("model", "batch", "plain, ms", "ratio (median)", "quartiles", "target"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, channels, batch, target in ROWS:
        found, plain = ratios(name, channels, batch, steps)
        low, median, high = statistics.quantiles(found, n=4)
        table.add_row(
            name, str(batch), f"{1000 * plain:.1f}", f"{median:.3f}", f"{low:.3f}..{high:.3f}", f"<= {target}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
