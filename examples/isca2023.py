"""Replay the three training faults of He et al., ISCA 2023, at reduced scale, and print the table of docs/isca2023.md.

python examples/isca2023.py --before 300 --after 200
"""

import argparse
import copy
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

import miscompute as mc
from miscompute.tasks import DataSet, Training, accuracy, load_data, recipe_for

CASES: Mapping[str, str | None] = MappingProxyType(
    {
        "fault-free": None,
        "weight operand 0.0607": (
            "weight-elements[{element},1] set-to 0.0607 transient step {step} pass forward layer {layer}"
        ),
        "input-gradient operand 8.98e17": (
            "grad-output-elements[{element},1] set-to 8.98e17 transient step {step} pass grad_input layer {layer}"
        ),
        "output 2.87e24": (
            "result-elements[{element},1] set-to 2.87e24 transient step {step} pass forward layer {layer}"
        ),
    }
)
"""The published replays: which word of which pass was wrong, and what it was (doi 10.1145/3579371.3589105)."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What became of a training from the step of the fault on.

    ``train`` is the training accuracy of each step's batch, the fault's own first; ``test`` is measured on a healthy
    machine after the last step. ``largest`` is Adam's state after the step of the fault: the largest absolute m and the
    largest v. ``lost`` is the step, counted from the fault's, whose loss is not finite; the training ends with it.
    """

    train: tuple[float, ...]
    test: float
    largest: tuple[float, float]
    lost: int | None


def replay(training: Training, start: Mapping[str, Any], fault: str | None, *, steps: int) -> Replay:
    """Train on from a state, with a fault or without."""
    training.load_state(copy.deepcopy(dict(start)))
    first = training.step
    context: Any = nullcontext()
    if fault is not None:
        context = mc.inject(training.model, mc.parse_fault(fault), array=mc.nvdla_small(), step=first)
    train: list[float] = []
    lost, largest = None, (math.nan, math.nan)
    with context as injection:
        while training.step < first + steps and lost is None:
            loss, right = training.gradients()
            train.append(right / training.recipe.batch_size)
            if not math.isfinite(float(loss)):
                lost = training.step - first
            training.update()
            if training.step == first + 1:
                largest = _largest(training.optimizer, "exp_avg"), _largest(training.optimizer, "exp_avg_sq")
    if injection is not None and injection.log.reached != 1:
        sys.exit(f"isca2023: {fault} reached {injection.log.reached} words and should reach one; choose another place")
    return Replay(train=tuple(train), test=accuracy(training.model, training.data), largest=largest, lost=lost)


def _largest(optimizer: torch.optim.Optimizer, state: str) -> float:
    stored: list[Tensor] = [states[state] for states in optimizer.state.values()]
    return max(float(tensor.abs().max()) for tensor in stored)


class OnePass(nn.Module):
    """Batch normalisation whose variance is E[x^2] - E[x]^2 in fp32, which takes one pass over x.

    Of one x that is 2.87e24 both are Inf, and their difference is NaN. PyTorch sums up squares of deviations on a CPU,
    which come to Inf: the channel is divided by it, and is 0.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, channels, h, w), by the batch's own statistics in training."""
        if not self.training:
            evaluated: Tensor = self.norm(x)
            return evaluated
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = (x * x).mean((0, 2, 3), keepdim=True) - mean * mean
        scale, shift = (parameter.view(-1, 1, 1) for parameter in (self.norm.weight, self.norm.bias))
        return (x - mean) * torch.rsqrt(variance + self.norm.eps) * scale + shift


def put_one_pass(model: nn.Module) -> None:
    """Put `OnePass` in the place of every batch normalisation, its parameters the same tensors."""
    for module in [*model.modules()]:
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, OnePass(child))


def few(data: DataSet, images: int) -> DataSet:
    """Give a data set with fewer validation images."""
    return replace(
        data, validation_images=data.validation_images[:images], validation_labels=data.validation_labels[:images]
    )


def row(name: str, result: Replay) -> str:
    """Give a row of the table: training accuracy at the fault's step, then means over later ones."""
    cells = [f"{accuracy:.3f}" if accuracy is not None else "-" for accuracy in _windows(result.train)]
    lost = "-" if result.lost is None else f"step +{result.lost}"
    m, v = result.largest
    return f"| {name} | {' | '.join(cells)} | {result.test:.3f} | {m:.2g} | {v:.2g} | {lost} |"


def _windows(train: Sequence[float]) -> list[float | None]:
    windows = [train[first:last] for first, last in ((0, 1), (1, 6), (6, 26), (26, 76))]
    last = train[-50:] if len(train) > 126 else ()
    return [statistics.mean(window) if window else None for window in (*windows, last)]


def main() -> None:
    """Read the arguments, train to the fault, replay, print."""
    arguments = argparse.ArgumentParser(description="The replays of ISCA 2023, at reduced scale.")
    arguments.add_argument("--width", type=float, default=0.125, help="of ResNet-18, as a part of the published one's")
    arguments.add_argument("--batch-size", type=int, default=64)
    arguments.add_argument("--lr", type=float, default=1e-3)
    arguments.add_argument("--before", type=int, default=300, help="steps before the fault's")
    arguments.add_argument("--after", type=int, default=200, help="steps from the fault's on, 127 or more")
    arguments.add_argument("--layer", default="layer4.1.conv2")
    arguments.add_argument(
        "--element", type=int, default=1000, help="which word of the operand, in the order of memory"
    )
    arguments.add_argument("--images", type=int, default=2000, help="to validate on")
    arguments.add_argument("--seed", type=int, default=123)
    asked = arguments.parse_args()
    if asked.before < 1 or asked.after < 127:
        sys.exit(f"isca2023: --before {asked.before} must be at least 1 and --after {asked.after} at least 127")
    try:
        recipe = recipe_for(
            "cifar10",
            model="resnet18",
            width=asked.width,
            lr=asked.lr,
            schedule="constant",
            batch_size=asked.batch_size,
            steps=asked.before + asked.after,
            seed=asked.seed,
        )
        training = Training(recipe, few(load_data("cifar10"), asked.images))
        while training.step < asked.before:
            training.gradients()
            training.update()
        start = copy.deepcopy(training.state())
        print("| case | train, +0 | +1..5 | +6..25 | +26..75 | last 50 | test | largest m | largest v | not finite |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for name, spelled in CASES.items():
            fault = spelled and spelled.format(element=asked.element, step=asked.before, layer=asked.layer)
            print(row(name, replay(training, start, fault, steps=asked.after)), flush=True)
        training.load_state(copy.deepcopy(start))
        put_one_pass(training.model)
        name, spelled = [*CASES.items()][-1]
        assert spelled is not None
        fault = spelled.format(element=asked.element, step=asked.before, layer=asked.layer)
        start = {**copy.deepcopy(start), "model": training.model.state_dict()}
        print(row(f"{name}, variance in one pass", replay(training, start, fault, steps=asked.after)), flush=True)
    except mc.InvalidInput as error:
        sys.exit(f"isca2023: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
