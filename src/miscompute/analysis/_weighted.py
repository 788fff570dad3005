"""Rates from trials that were drawn more often where events were expected: importance sampling."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from .._invalid import InvalidInput
from ._bet import least_mean
from ._estimate import Estimate, check_confidence


def weighted_rate(
    events: Bool[np.ndarray, " trials"],
    weights: Float[np.ndarray, " trials"],
    *,
    bound: float,
    confidence: float = 0.95,
    normalised: bool = False,
) -> Estimate:
    """Estimate the rate over a population from trials drawn with other probabilities.

    Args:
        events: whether it happened, one a trial.
        weights: of the trials, as of `weighted_mean`.
        bound: of the weights, as there.
        confidence: of the interval.
        normalised: as there.

    Raises:
        InvalidInput: if there are no trials, or a weight is not in 0..bound.

    >>> drawn = np.random.default_rng(0).random(2_000) < 0.5  # half from the exponents, a tenth of the bits
    >>> events = drawn & (np.random.default_rng(1).random(2_000) < 0.1)
    >>> print(weighted_rate(events, np.where(drawn, 0.1 / 0.5, 0.9 / 0.5), bound=1.8))
    0.9 % (0.6..1.4 %, 95 %, 90 of 2,000)
    """
    found = weighted_mean(events.astype(float), weights, bound=bound, confidence=confidence, normalised=normalised)
    return replace(found, events=int(events.sum()), trials=events.size)


def weighted_mean(
    values: Float[np.ndarray, " trials"],
    weights: Float[np.ndarray, " trials"],
    *,
    bound: float,
    confidence: float = 0.95,
    normalised: bool = False,
) -> Estimate:
    """Estimate the mean of values in 0..1 over a population from trials drawn with other probabilities.

    The interval assumes nothing about how the weights are distributed below their bound. It is where neither of two
    gamblers, who bet that the mean is higher or lower, has turned 1 into ``2 / (1 - confidence)``; each puts constant
    shares of the capital on every trial, mixed (Waudby-Smith and Ramdas, Estimating means of bounded random variables
    by betting, 2023). For independent draws it holds at all looks at once, like `confidence_sequence`, and whatever the
    trials' order; for numbers that are fixed for each stratum, once all of those trials are there.

    Args:
        values: one a trial, in 0..1.
        weights: the probability of the trial's fault under the population's distribution (1 / N, say), divided by the
            probability with which it was drawn. Draws are independent, with replacement; or of each stratum a number
            fixed beforehand, without: N_h / N divided by n_h / n.
        bound: the largest weight that any fault could have had, drawn or not.
        confidence: of the interval.
        normalised: False for ``sum(w_i y_i) / n`` (Horvitz and Thompson, 1952), which is unbiased. True for
            ``sum(w_i y_i) / sum(w_i)``, which is biased in the order of 1 / n but exact where all trials agree, and
            needs weights (and the bound) only up to a factor.

    Raises:
        InvalidInput: if there are no trials, a value is not in 0..1, or a weight is not in 0..bound.
    """
    check_confidence(confidence)
    if not weights.size:
        raise InvalidInput("weights must not be empty: nothing is known before the first trial")
    if values.shape != weights.shape:
        raise InvalidInput(f"values and weights must be as many, not {len(values)} and {len(weights)}")
    if not (values.min() >= 0 and values.max() <= 1):
        raise InvalidInput(
            f"values={values.min():.6g}..{values.max():.6g} must be from 0 to 1; divide by the largest there can be"
        )
    if not (weights.min() > 0 and weights.max() <= bound):
        raise InvalidInput(
            f"weights={weights.min():.6g}..{weights.max():.6g} must be above 0 and at most bound={bound:.6g}"
        )
    share = weights / bound
    tail = (1 - confidence) / 2
    if normalised:
        best = float((weights * values).sum() / weights.sum())
        low, high = _least(values, share, tail), 1 - _least(1 - values, share, tail)
    else:
        best = float((weights * values).mean())
        value, whole = share * values, np.ones_like(share)
        low, high = bound * _least(value, whole, tail), bound * (1 - _least(1 - value, whole, tail))
    return Estimate(
        low=min(low, best),
        best=best,
        high=max(min(high, 1.0), best),
        confidence=confidence,
        method="self-normalised, betting" if normalised else "horvitz-thompson, betting",
    )


def _least(value: Float[np.ndarray, " trials"], share: Float[np.ndarray, " trials"], tail: float) -> float:
    pairs, repeats = np.unique(np.stack([value, share]), axis=1, return_counts=True)
    return least_mean(pairs[0], pairs[1], repeats, tail)
