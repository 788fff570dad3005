"""Draws that are addressed: what a seed and a place give is the same for ever, whatever was drawn before."""

from functools import lru_cache
from hashlib import blake2b

_BYTES = 32  # of each draw; among fewer than 2**128 the odds are equal to within 2**-128


def below(many: int, *key: object) -> int:
    """Draw one of 0..many - 1, all equally likely; the key decides which.

    >>> [below(10, "seed", place) for place in range(8)]
    [2, 3, 0, 7, 0, 1, 5, 8]
    """
    drawn = int.from_bytes(blake2b(repr(key).encode(), digest_size=_BYTES).digest())
    return drawn * many >> (8 * _BYTES)


class _Shuffle:
    """Fisher and Yates' shuffle of 0..size - 1, done as far as it was asked for; only what moved is kept."""

    def __init__(self, size: int, key: tuple[object, ...]) -> None:
        self._size = size
        self._key = key
        self._moved: dict[int, int] = {}
        self._drawn: list[int] = []

    def first(self, many: int) -> tuple[int, ...]:
        for place in range(len(self._drawn), many):
            other = place + below(self._size - place, *self._key, place)
            self._drawn.append(self._moved.get(other, other))
            self._moved[other] = self._moved.pop(place, place)
        return tuple(self._drawn[:many])


@lru_cache(maxsize=512)
def _shuffle(size: int, key: tuple[object, ...]) -> _Shuffle:
    return _Shuffle(size, key)


def shuffled(size: int, many: int, *key: object) -> tuple[int, ...]:
    """Give the first of a random order of 0..size - 1, each order equally likely; the key decides which.

    Fewer are the beginning of more. The size may be any number; time and memory go with ``many``.
    """
    return _shuffle(size, key).first(many)
