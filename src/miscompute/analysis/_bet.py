"""Limits for the mean of bounded values, by betting against what it might be."""

import numpy as np
import scipy  # loads optimize when first used
from jaxtyping import Float, Int

_BETS = np.geomspace(1e-4, 0.99, 32)
# Shares of the capital. The best bet is as large as the interval is narrow relative to the mean. Large bets get more of
# the capital to begin with: they are best where there are few trials or events, and then everything is to be gained.
_CAPITAL = np.sqrt(_BETS) / np.sqrt(_BETS).sum()


def least_mean(
    value: Float[np.ndarray, " values"],
    share: Float[np.ndarray, " values"],
    repeats: Int[np.ndarray, " values"],
    tail: float,
) -> float:
    """Find the least m for which betting on ``E[share (value - m)] > 0`` has not turned 1 into 1 / tail.

    A bet of s multiplies the capital by ``1 + s share (value / m - 1)``: a fair game if m is right, never below 0, and
    less the larger m is. So for the true mean the capital reaches 1 / tail with probability ``tail`` at most (Ville;
    Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, 2023). Of trials with different
    means, m is their average: the expected capital is then a product of factors whose average is at most 1, so it is at
    most 1 too.

    Args:
        value: what was seen, 0..1, each as often as ``repeats`` says.
        share: in 0..1, with the value.
        repeats: of the value and its share.
        tail: the error probability of this limit.
    """
    if not (value * repeats).any():
        return 0.0

    def won(log_mean: float) -> float:
        growth = np.log1p(_BETS[:, None] * (share * (value / np.exp(log_mean) - 1))) @ repeats
        return float(np.logaddexp.reduce(growth + np.log(_CAPITAL)) + np.log(tail))

    # Against the mean of what was seen nothing is won, and the more the less m is.
    right = float(np.log((share * value) @ repeats / (share @ repeats)))
    wrong = right - 1.0
    while won(wrong) < 0:
        wrong -= 1.0
    return float(np.exp(scipy.optimize.brentq(won, wrong, right, xtol=1e-12)))
