"""The picture of collateral damage: one faulty word, and what it does to each feature map that follows."""

import base64
import math
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import altair as alt
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .._invalid import InvalidInput
from ..pvf import Damage, FeatureMap
from ._vulnerability import PVF_COLORS

_COLUMNS = 7  # feature maps beside each other
_THUMB, _STEP_X, _STEP_Y = 108, 124, 158  # pixels
_LARGE = 290
_MOST_CLASSES = 20
_LEVELS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of a change, relative to the root mean square of the map
_NONFINITE = "#3b1a5c"
_DECADES = len(_LEVELS) - 1


def damage_chart(
    damage: Damage, *, classes: Sequence[str] | None = None, example: Tensor | None = None
) -> alt.VConcatChart:
    """Draw what a fault does to one example, layer by layer: every channel of every feature map, and the scores.

    Above, the change of each feature map, a picture a channel, as a share of the map's root mean square; then, larger,
    the map that was clicked: without the fault, with it, and the change; below, the scores.

    Args:
        damage: what was measured.
        classes: what the scores are of; None: numbers.
        example: the image to show, (channels, height, width); None: what the model took.

    Raises:
        InvalidInput: if no layer follows the fault.
    """
    if not damage.features:
        raise InvalidInput(
            f"fault '{damage.fault}' has no feature map after it; choose a parameter of an earlier layer"
        )
    chosen = alt.selection_point(name="map", fields=["number"], value=[{"number": 0}], toggle=False, empty=False)
    picture = damage.example if example is None else example
    below: list[Any] = [_scores(damage, classes)]
    if picture.dim() == 3 and picture.shape[0] in (1, 3):
        below.insert(0, _example(picture))
    parts: list[Any] = [
        _legend(),
        _maps([_panel(number, one) for number, one in enumerate(damage.features)], chosen),
        _large(damage.features, chosen),
        alt.hconcat(*below, spacing=40),
    ]
    chart: alt.VConcatChart = (
        alt.vconcat(*parts, spacing=22)
        .properties(
            title=alt.Title(
                "Collateral damage of one faulty word",
                subtitle=[
                    f"{damage.fault}: {damage.element} = {damage.stored:.4g} is read as {damage.read:.4g}",
                    _said(damage, classes),
                ],
                anchor="start",
                fontSize=17,
                subtitleFontSize=13,
                subtitleColor="#555",
                offset=14,
            ),
            padding=16,
        )
        .configure_view(stroke=None)
        .configure_axis(grid=False, labelColor="#444", titleColor="#333")
    )
    return chart


def _said(damage: Damage, classes: Sequence[str] | None) -> str:
    before, after = (_predicted(scores, classes) for scores in (damage.golden, damage.faulty))
    if damage.golden.dim() > 1:
        places = int((damage.golden.argmax(-1) != damage.faulty.argmax(-1)).sum())
        return f"at {places} of {len(damage.golden)} places another token is predicted; at the last: {before}, {after}"
    return f"predicted without the fault: {before}; with it: {after}"


def _predicted(scores: Tensor, classes: Sequence[str] | None) -> str:
    last = scores.reshape(-1, scores.shape[-1])[-1].double()
    if bool(last.isnan().any()):
        return "nothing, the scores are NaN"
    best = int(last.argmax())
    share = float(last.softmax(0)[best]) if bool(last.isfinite().all()) else math.nan
    return f"{_class(best, classes)}" + ("" if math.isnan(share) else f" ({share:.0%})")


def _class(number: int, classes: Sequence[str] | None) -> str:
    return str(number) if classes is None else classes[number]


def _panel(number: int, feature: FeatureMap) -> dict[str, Any]:
    different, channels = feature.channels
    relative = "not finite" if math.isinf(feature.relative) else f"x {feature.relative:.2g}"
    return {
        "number": number,
        "layer": feature.name,
        "size": " x ".join(map(str, feature.golden.shape)),
        "channels": f"{different} of {channels}",
        "share": feature.changed,
        "relative": relative,
        "nonfinite": feature.nonfinite,
        "url": _url(_montage(_changes(feature))),
        "x": number % _COLUMNS * _STEP_X,
        "y": number // _COLUMNS * _STEP_Y,
        "said": f"{feature.changed:.0%} changed, {relative}",
    }


def _maps(panels: list[dict[str, Any]], chosen: alt.Parameter) -> Any:
    wide, high = _COLUMNS * _STEP_X, (1 + (len(panels) - 1) // _COLUMNS) * _STEP_Y
    # Places are in pixels: axes and facets would repeat what each picture says.
    base = alt.Chart(alt.InlineData(values=panels)).encode(
        x=alt.X("px:Q", axis=None, scale=alt.Scale(domain=[0, wide], nice=False)),
        y=alt.Y("py:Q", axis=None, scale=alt.Scale(domain=[high, 0], nice=False)),
        tooltip=[
            "layer:N",
            "size:N",
            alt.Tooltip("channels:N", title="channels that differ"),
            alt.Tooltip("share:Q", format=".2%", title="elements that differ"),
            alt.Tooltip("relative:N", title="root mean square of the change"),
            alt.Tooltip("nonfinite:Q", format=",", title="INF or NaN"),
        ],
    )

    def at(right: float, down: float) -> alt.Chart:
        placed: alt.Chart = base.transform_calculate(px=f"datum.x + {right}", py=f"datum.y + {down}")
        return placed

    half = _THUMB / 2
    frames = at(half, 18 + half).mark_square(size=(_THUMB + 6) ** 2, filled=False, strokeWidth=2, opacity=1)
    images = at(half, 18 + half).mark_image(width=_THUMB, height=_THUMB, smooth=False).encode(url="url:N")
    names = at(0.0, 8.0).mark_text(align="left", fontSize=11, fontWeight=600, limit=_STEP_X).encode(text="layer:N")
    said = (
        at(0.0, 32.0 + _THUMB).mark_text(align="left", fontSize=10, color="#555", limit=_STEP_X).encode(text="said:N")
    )
    marked = frames.encode(stroke=alt.condition(chosen, alt.value("#2b6cb0"), alt.value("#dddddd")))
    chart: Any = alt.layer(marked, images.add_params(chosen), names, said).properties(width=wide, height=high)
    return chart


def _large(features: Sequence[FeatureMap], chosen: alt.Parameter) -> Any:
    """Draw the chosen map as it was, as it is and how it changed."""
    values: list[dict[str, Any]] = []
    wide = _LARGE + 12
    for number, one in enumerate(features):
        pictures = (
            ("without the fault", _magnitudes(one.golden, one.golden)),
            ("with the fault", _magnitudes(one.faulty, one.golden)),
            ("change", _changes(one)),
        )
        values += [
            {"number": number, "layer": one.name, "of": said, "url": _url(_montage(picture)), "x": (place + 0.5) * wide}
            for place, (said, picture) in enumerate(pictures)
        ]
    base = alt.Chart(alt.InlineData(values=values)).transform_filter(chosen)
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, 3 * wide], nice=False))
    images = base.mark_image(width=_LARGE, height=_LARGE, smooth=False).encode(
        x=x, y=alt.value(18 + _LARGE / 2), url="url:N"
    )
    above = base.transform_calculate(said="datum.layer + ', ' + datum.of").mark_text(fontSize=11)
    large: Any = alt.layer(images, above.encode(x=x, y=alt.value(8), text="said:N")).properties(
        width=3 * wide, height=_LARGE + 22
    )
    return large


def _scores(damage: Damage, classes: Sequence[str] | None) -> alt.FacetChart:
    """Draw the scores as probabilities, of a text those at its last place; of many classes, the most probable."""
    values: list[dict[str, Any]] = []
    both = [scores.reshape(-1, scores.shape[-1])[-1].double() for scores in (damage.golden, damage.faulty)]
    shares = [one.softmax(0) for one in both]
    highest = shares[0].maximum(shares[1].nan_to_num(0)).argsort(descending=True)[:_MOST_CLASSES]
    for said, scores, share in zip(("without the fault", "with the fault"), both, shares, strict=True):
        for number in sorted(highest.tolist()):
            probability = float(share[number])
            values.append(
                {
                    "class": _class(number, classes),
                    "run": said,
                    "probability": 0.0 if math.isnan(probability) else probability,
                    "score": f"{float(scores[number]):.4g}",
                }
            )
    order = [_class(number, classes) for number in sorted(highest.tolist())]
    bars = (
        alt.Chart()
        .mark_bar()
        .encode(
            x=alt.X("probability:Q", axis=alt.Axis(format=".0%", tickCount=3), scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("class:N", title=None, sort=order, axis=alt.Axis(domain=False, ticks=False)),
            color=alt.Color(
                "run:N",
                legend=None,
                scale=alt.Scale(domain=["without the fault", "with the fault"], range=["#2b6cb0", "#c22a2a"]),
            ),
            tooltip=["class:N", alt.Tooltip("probability:Q", format=".2%"), "score:N"],
        )
    )
    texts = alt.Chart().mark_text(align="left", dx=3, fontSize=9, color="#666")
    drawn = alt.layer(
        bars,
        texts.encode(x="probability:Q", y=alt.Y("class:N", sort=order), text="score:N"),
        data=alt.InlineData(values=values),
    ).properties(width=170, height=max(120, 15 * len(order)))
    chart: alt.FacetChart = drawn.facet(
        column=alt.Column("run:N", title=None, sort=["without the fault", "with the fault"])
    )
    return chart


def _example(example: Tensor) -> alt.Chart:
    low, high = float(example.min()), float(example.max())
    pixels = ((example.double() - low) / ((high - low) or 1) * 255).byte().permute(1, 2, 0).numpy()
    pixels = np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels
    values = [{"url": _url(pixels)}]
    shown: alt.Chart = (
        alt.Chart(alt.InlineData(values=values))
        .mark_image(width=150, height=150)
        .encode(x=alt.value(75), y=alt.value(75), url="url:N")
        .properties(width=150, height=150, title=alt.Title("the example", fontSize=11, fontWeight=400))
    )
    return shown


def _legend() -> Any:
    """Say what the colours of a change mean."""
    values = [{"said": "not changed", "color": "#ffffff", "x": 0}]
    values += [
        {
            "said": f"{level:g}" + (" and more" if level == _LEVELS[-1] else ""),
            "color": _hex(place / _DECADES),
            "x": 1 + place,
        }
        for place, level in enumerate(_LEVELS)
    ]
    values.append({"said": "INF or NaN", "color": _NONFINITE, "x": 1 + len(_LEVELS)})
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.2, 8], nice=False))
    )
    boxes = base.mark_square(size=190, stroke="#bbb", strokeWidth=1, opacity=1).encode(
        color=alt.Color("color:N", scale=None), y=alt.value(9)
    )
    texts = base.mark_text(align="left", dx=11, fontSize=11, color="#444").encode(text="said:N", y=alt.value(9))
    legend: Any = alt.layer(boxes, texts).properties(
        width=760,
        height=18,
        title=alt.Title(
            "Change of each feature map, a small picture a channel, as a share of the map's root mean square",
            subtitle="click one to see it in full below",
            anchor="start",
            fontSize=13,
            subtitleColor="#555",
        ),
    )
    return legend


def _changes(feature: FeatureMap) -> NDArray[np.uint8]:
    """Colour how much each element changed, (..., 3): by the decade, as a share of the map's root mean square."""
    golden, faulty = (tensor.double().numpy() for tensor in (feature.golden, feature.faulty))
    scale = float(np.sqrt(np.mean(np.square(golden)))) or 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.log10(np.abs(faulty - golden) / scale / _LEVELS[0]) / _DECADES
    halves = 2 * _DECADES  # half decades: the eye sees no more, and pictures stay small
    colors = _colored(np.round(np.clip(np.nan_to_num(share, nan=1.0), 0, 1) * halves) / halves)
    colors[~feature.differs.numpy()] = 255
    colors[~np.isfinite(faulty)] = _rgb(_NONFINITE)
    return colors


def _magnitudes(values: Tensor, golden: Tensor) -> NDArray[np.uint8]:
    """Grey an element by its magnitude, (..., 3): black for the largest of the fault-free map and beyond."""
    held = values.double().numpy()
    most = float(golden.double().abs().max()) or 1.0
    grey = 255 - 17 * np.round(15 * np.clip(np.nan_to_num(np.abs(held) / most, nan=1.0), 0, 1))
    colors = np.repeat(grey[..., None], 3, -1).astype(np.uint8)
    colors[~np.isfinite(held)] = _rgb(_NONFINITE)
    return colors


def _colored(share: NDArray[np.float64]) -> NDArray[np.uint8]:
    stops = np.array([_rgb(color) for color in PVF_COLORS], float)
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(share, places, stops[:, part]) for part in range(3)], -1).astype(np.uint8)


def _hex(share: float) -> str:
    return "#" + bytes(_colored(np.array(share)).tolist()).hex()


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color[1:])
    return red, green, blue


def _montage(colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay channels (channels, height, width, 3) out as a square of tiles; what has no places, in rows of a square."""
    if colors.ndim == 2:  # features without places
        side = math.ceil(math.sqrt(len(colors)))
        filled = np.full((side * side, 3), 255, np.uint8)
        filled[: len(colors)] = colors
        return filled.reshape(side, side, 3)
    if colors.ndim == 3:  # places of a text by features
        return colors
    tiles = colors.reshape(-1, *colors.shape[-3:])
    channels, height, width, _ = tiles.shape
    side = math.ceil(math.sqrt(channels))
    padded = np.full((side * math.ceil(channels / side), height + 1, width + 1, 3), 225, np.uint8)
    padded[:channels, :height, :width] = tiles
    rows = padded.reshape(-1, side, height + 1, width + 1, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(rows.reshape(-1, side * (width + 1), 3))


def _url(colors: NDArray[np.uint8]) -> str:
    """Write a picture into its own address, small ones enlarged so that pixels stay squares."""
    picture = Image.fromarray(colors)
    factor = max(1, _LARGE // max(picture.size))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    held = BytesIO()
    picture.quantize(64, dither=Image.Dither.NONE).save(held, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"
