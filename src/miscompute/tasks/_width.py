"""Models of any width."""

from .._invalid import InvalidInput

_MOST = 1 << 20


def scaled(width: float, *hidden: int) -> tuple[int, ...]:
    """Scale numbers of hidden channels, each to at least 1.

    >>> scaled(0.25, 64, 192, 1)
    (16, 48, 1)
    """
    if width * max(hidden) > _MOST:
        raise InvalidInput(
            f"width={width} makes a layer of {width * max(hidden):.3g} channels, more than {_MOST:,}; "
            "choose a smaller one"
        )
    return tuple(max(1, round(width * channels)) for channels in hidden)
