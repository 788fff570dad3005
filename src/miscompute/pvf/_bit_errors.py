"""Bit errors in many words at once: a fault is a whole draw of flips, at a rate, over all words of some parameters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from .._invalid import InvalidInput
from ..analysis import Estimate, rate
from ..formats import Format, format_named
from ._brute import scores_of
from ._criteria import Limits, failures, place_of
from ._fault_free import fault_free
from ._result import mean_estimate
from ._vulnerability import parameter_names


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class BitErrors:
    """How many inferences fail under draws of bit errors.

    Args:
        rate: with which each stored bit is wrong.
        stored_bits: of the parameters.
        inferences: with each draw.
        criteria: by which an inference fails, in the order of the failures.
        flips: of each draw, how many bits are wrong.
        failures: of each draw, by each criterion.
    """

    rate: float
    stored_bits: int
    inferences: int
    criteria: tuple[str, ...]
    flips: Int64[Tensor, " draws"]
    failures: Int64[Tensor, "criteria draws"]

    def pvf(self, criterion: str | None = None, *, confidence: float = 0.95) -> Estimate:
        """Estimate the probability that an inference fails at that rate, over draws and inferences."""
        return mean_estimate(self._of(criterion) / self.inferences, confidence)

    def critical(self, criterion: str | None = None, *, confidence: float = 0.95) -> Estimate:
        """Estimate the share of draws under which at least one of the inferences fails."""
        found = self._of(criterion)
        return rate(int((found > 0).sum()), len(found), confidence=confidence)

    def _of(self, criterion: str | None) -> np.ndarray:
        return self.failures[place_of(criterion, self.criteria)].numpy()


def bit_errors(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor | None = None,
    *,
    rate: float,
    trials: int,
    parameters: Sequence[str] | None = None,
    format: str = "fp32",
    criteria: Sequence[str] | None = None,
    limits: Limits | None = None,
    seed: int = 0,
    batch_size: int = 250,
    report: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> BitErrors:
    """Count how many inferences fail when each stored bit of some parameters is wrong with a probability.

    A trial draws which bits, independently of each other, and runs the whole model: so many words at once have no
    faster way.

    Args:
        model: as of `vulnerability`, and so are the arguments that are not here.
        inputs: what it takes, examples first.
        labels: of each inference, for the criteria that need them.
        rate: with which each bit is wrong.
        trials: how many draws.
        parameters: names, or beginnings of names up to a dot; None: all.
        format: in which parameters are stored.
        criteria: of `CRITERIA`.
        limits: of the criteria that have one.
        seed: of the draws; trial n is the same however many there are.
        batch_size: examples that run together.
        report: told of the trials that are done, and of how many.

    Raises:
        InvalidInput: for names that are not there, or values that cannot be.
    """
    if not 0 < rate <= 1:
        raise InvalidInput(f"rate={rate} must be above 0 and at most 1: the probability that a bit is wrong")
    if trials < 1:
        raise InvalidInput(f"trials={trials} must be at least 1")
    asked = format_named(format)
    names = parameter_names(model, parameters)
    clean = fault_free(
        model, inputs, labels, rounded=names, format=asked, criteria=criteria, limits=limits, batch_size=batch_size
    )
    held = {name: clean.model.get_parameter(name) for name in names}
    stored = {name: tensor.detach().clone() for name, tensor in held.items()}
    ends = np.cumsum([tensor.numel() * asked.bits for tensor in held.values()])
    flips, counted = torch.zeros(trials, dtype=torch.int64), torch.zeros(len(clean.criteria), trials, dtype=torch.int64)
    for trial in range(trials):
        random = np.random.default_rng([seed, trial])
        places = _different(random, int(ends[-1]), int(random.binomial(ends[-1], rate)))
        first = 0
        for name, end in zip(names, ends.tolist(), strict=True):
            mine = places[(places >= first) & (places < end)] - first
            held[name].copy_(flipped(stored[name], clean.formats[name], mine))
            first = end
        flips[trial] = len(places)
        scores = scores_of(clean.model, inputs, batch_size)
        counted[:, trial] = failures(scores, clean.golden, clean.criteria, clean.limits).sum(1)
        report(trial + 1, trials)
    return BitErrors(
        rate=rate,
        stored_bits=int(ends[-1]),
        inferences=len(clean.golden.scores),
        criteria=clean.criteria,
        flips=flips,
        failures=counted,
    )


def _different(random: np.random.Generator, size: int, many: int) -> np.ndarray:
    """Draw so many different places, each as likely as the others, sorted."""
    if many > size // 20:
        return np.sort(random.choice(size, many, replace=False))
    found = np.zeros(0, np.int64)
    while len(found) < many:  # a few are drawn twice, and drawn again
        found = np.union1d(found, random.integers(0, size, many - len(found)))
    return found


def flipped(stored: Tensor, format: Format, places: np.ndarray) -> Tensor:
    """Flip bits of stored values; place = element x bits of the format + bit."""
    elements, bits = np.divmod(places, format.bits)
    touched, which = np.unique(elements, return_inverse=True)
    masks = np.zeros(len(touched), np.uint64)
    np.bitwise_xor.at(masks, which, np.uint64(1) << bits.astype(np.uint64))
    result = stored.detach().clone()
    at = torch.from_numpy(touched)
    words = format.encode(stored.detach().flatten()[at].double().numpy()) ^ masks
    result.view(-1)[at] = torch.from_numpy(format.decode(words)).float()
    return result
