"""The picture of a lowering: where the fault is in the array, and what of a layer's tensors it touches."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import vl_convert
from numpy.typing import NDArray

from .._invalid import InvalidInput
from ..error import AnyError, Error, Region, StoredError, SumError
from ..fault import Exposure, Fault, SumExposure, Transient
from ..hardware import OPERANDS, PASSES, TWIN_OPERANDS, TWIN_PASSES, Array, Layer, OutputStationary, Pass
from ._curves import write_chart
from ._tables import _region, _whole

_COLORS = {
    "MAC": "#d8e1ea",
    "MAC at the fault": "#8c1d18",
    "not touched": "#eceff2",
    "touched in part": "#f2b27a",
    "touched": "#d9542b",
}
_MOST_MACS = 16  # rows and columns of the array that are drawn
_MOST_CELLS = 32  # rows and columns of a tensor that are drawn
_SIDE = 224  # pixels that the larger side of a panel takes


def lowering_chart(array: Array, fault: Fault, layer: Layer, errors: Sequence[AnyError]) -> alt.HConcatChart:
    """Draw the array with the fault, and beside it the tensor that it touches in each pass of a layer.

    A tensor is drawn as a matrix of its two leading dimensions, channels and images; a cell stands for all kernel
    positions or pixels there, and for all groups. Of what is large, a window is drawn, and the axis says which.

    Args:
        array: the array.
        fault: the fault.
        layer: the layer, as the array sees it: where that is by im2col, `Layer.as_matmul`.
        errors: what the fault is lowered to; of other layers too.

    Raises:
        InvalidInput: if the fault is in memory, which is not part of the array.
    """
    if any(isinstance(error, StoredError) for error in errors):
        raise InvalidInput(f"fault '{fault}' is in memory, which is not in the picture of the array; leave draw out")
    in_passes = [error for error in errors if not isinstance(error, StoredError) and _is_there(error, layer)]
    passes = [
        _pass_panel(array.seen(layer, pass_), pass_, [error for error in in_passes if error.pass_ == pass_])
        for pass_ in PASSES
    ]
    kernel = f", kernel {' x '.join(map(str, layer.kernel))}" if layer.kernel else ""
    product = ", as a matrix product" if array.im2col else ""
    groups = f", {layer.groups} groups" if layer.groups > 1 else f", batch of {layer.batch}" if layer.batch > 1 else ""
    chart: alt.HConcatChart = (
        alt.hconcat(_array_panel(array, fault), *passes, spacing=36)
        .resolve_scale(color="shared", x="independent", y="independent")
        .properties(
            title=alt.Title(
                str(fault),
                subtitle=f"{type(array).__name__}, {array.rows} x {array.cols} MACs; layer {layer.name}: n {layer.n}, "
                f"ic {layer.ic}, oc {layer.oc}{kernel}{groups}{product}",
                anchor="start",
                fontSize=17,
                subtitleFontSize=12,
                subtitleColor="#555",
                offset=18,
            ),
            padding=16,
        )
        .configure_view(stroke=None)
        .configure_axis(
            domain=False, ticks=False, grid=False, labelColor="#555", titleColor="#333", titleFontWeight=500
        )
    )
    return chart


def write_drawing(chart: alt.HConcatChart, stem: Path) -> tuple[Path, Path, Path]:
    """Write a chart as ``stem.png``, ``stem.svg`` and, readable offline, ``stem.html``; return the paths."""
    png, html = write_chart(chart, stem)
    svg = stem.with_name(f"{stem.name}.svg")
    svg.write_text(vl_convert.vegalite_to_svg(chart.to_json()))
    return png, svg, html


def _array_panel(array: Array, fault: Fault) -> alt.Chart:
    rows, cols = _macs(array, fault)
    marked = np.zeros((array.rows, array.cols), bool)
    marked[rows.start : rows.stop, cols.start : cols.stop] = True
    names = np.where(marked, "MAC at the fault", "MAC")
    some = f"{marked.sum():,} of {marked.size:,} MACs at the fault"
    where = some if marked.any() else "the fault names elements, no place"
    return _matrix(names, ("row: lane", "column: cell"), (rows.start, cols.start), "array", where, _MOST_MACS)


def _macs(array: Array, fault: Fault) -> tuple[range, range]:
    """Say which multipliers read the faulty place, or put out what is summed up there: rows and columns.

    Where an array passes words on, those that get them later are not among them.
    """
    exposure = fault.site.exposure(rows=array.rows, cols=array.cols)
    if isinstance(exposure, Exposure):
        return range(exposure.row, exposure.row + 1), exposure.cols
    if not isinstance(exposure, SumExposure):
        return range(0), range(0)
    cols = range(exposure.col, exposure.col + 1)
    if exposure.stage == "node":
        return array.node(exposure.row, exposure.level), cols
    if exposure.stage == "product" or (isinstance(array, OutputStationary) and exposure.stage != "output"):
        return range(exposure.row, exposure.row + 1), cols
    return range(array.rows), cols


def _is_there(error: Error | SumError, layer: Layer) -> bool:
    """Say whether an error is in the layer, and its fault, if that is in one pass or layer only, there."""
    timing = error.timing
    where = not isinstance(timing, Transient) or timing.active(step=timing.step, pass_=error.pass_, layer=error.layer)
    return where and error.layer == layer.name


def _pass_panel(layer: Layer, pass_: Pass, errors: Sequence[Error | SumError]) -> alt.Chart:
    if not errors:
        text = alt.Chart(alt.InlineData(values=[{"said": "not reached"}])).mark_text(color="#888", fontSize=13)
        empty: alt.Chart = text.encode(text="said:N").properties(
            width=_SIDE // 2, height=_SIDE, title=_title(pass_, "no element is touched")
        )
        return empty
    what, _ = _whole(layer, errors[0])
    regions = list(dict.fromkeys(_region(error) for error in errors))
    sizes = _sizes(layer, errors[0], regions[0])
    total = math.prod(sizes.values())
    touched = sum(region.elements for region in regions)
    leading = [dim for dim in sizes if dim not in ("batch", "group")][:2]
    cells = np.sum([_touched(region, sizes, leading) for region in regions], axis=0)
    in_cell = total // math.prod(sizes[dim] for dim in leading)
    names = np.select([cells == in_cell, cells > 0], ["touched", "touched in part"], "not touched")
    firsts = [int(np.flatnonzero(cells.any(axis=1 - axis))[0]) for axis in (0, 1)]
    share = f"{touched:,} of {total:,} touched, {100 * touched / total:.2f} %"
    some = any(isinstance(error, Error) and error.results is not None for error in errors)
    return _matrix(
        names, (leading[0], leading[1]), (firsts[0], firsts[1]), f"{pass_}: {what}", share, _MOST_CELLS, some=some
    )


def _sizes(layer: Layer, error: Error | SumError, region: Region) -> dict[str, int]:
    """Name and size the dimensions of the tensor that a region is of.

    A transposed convolution's are those of the convolution it is the gradient of, as in lowering.
    """
    results = [layer.result(pass_) for pass_ in PASSES]
    operands = {operand: dict(zip(layer.dims(operand), layer.shape(operand), strict=True)) for operand in OPERANDS}
    if isinstance(error, Error) and region.dims == ("element",):
        if error.operand == "result":
            return layer.result(TWIN_PASSES[error.pass_] if layer.transposed else error.pass_)
        return operands[TWIN_OPERANDS[error.operand] if layer.transposed else error.operand]
    return next(sizes for sizes in (*results, *operands.values()) if tuple(sizes) == region.dims)


def _touched(region: Region, sizes: dict[str, int], leading: Sequence[str]) -> NDArray[np.int64]:
    """Count a region's elements at each index of the leading dimensions."""
    axes = [list(sizes).index(dim) for dim in leading]
    cells = np.zeros([sizes[dim] for dim in leading], np.int64)
    if region.dims == ("element",):
        at = np.unravel_index(np.array(list(region.ranges[0])), tuple(sizes.values()))
        np.add.at(cells, tuple(at[axis] for axis in axes), 1)
        return cells
    a, b = (list(region.range(dim)) for dim in leading)
    cells[np.ix_(a, b)] = region.elements // (len(a) * len(b))
    return cells


def _matrix(
    names: NDArray[Any],
    axes: tuple[str, str],
    firsts: tuple[int, int],
    title: str,
    share: str,
    most: int,
    *,
    some: bool = False,
) -> alt.Chart:
    """Draw a matrix of named cells: a window of it, that shows the first index wanted of either axis."""
    rows, cols = (_window(size, first, most) for size, first in zip(names.shape, firsts, strict=True))
    values: list[dict[str, Any]] = [
        {"row": row, "col": col, "is": str(names[row, col])} for row in rows for col in cols
    ]
    cell = max(7, min(22, _SIDE // max(len(rows), len(cols))))
    encoded: alt.Chart = (
        alt.Chart(alt.InlineData(values=values))
        .mark_rect(stroke="white", strokeWidth=1 if cell > 8 else 0.5, cornerRadius=2 if cell > 12 else 0)
        .encode(
            x=alt.X("col:O", title=_axis_title(axes[1], cols, names.shape[1]), axis=_axis(len(cols))),
            y=alt.Y("row:O", title=_axis_title(axes[0], rows, names.shape[0]), axis=_axis(len(rows))),
            color=alt.Color(
                "is:N",
                title=None,
                scale=alt.Scale(domain=list(_COLORS), range=list(_COLORS.values())),
                legend=alt.Legend(orient="bottom", direction="horizontal", labelLimit=300, symbolType="square"),
            ),
            tooltip=["row:O", "col:O", "is:N"],
        )
        .properties(
            width=cell * len(cols),
            height=cell * len(rows),
            title=_title(title, share, *(["as some results read it only"] if some else [])),
        )
    )
    return encoded


def _title(text: str, *more: str) -> alt.Title:
    return alt.Title(text, subtitle=list(more), anchor="start", fontSize=13, subtitleColor="#555")


def _window(size: int, first: int, most: int) -> range:
    """Give the indices to draw: all, or the first ones, or those from a little before the first that matters."""
    if size <= most or first < most:
        return range(min(size, most))
    start = min(first - most // 4, size - most)
    return range(start, start + most)


def _axis_title(name: str, shown: range, size: int) -> str:
    return name if len(shown) == size else f"{name} ({shown.start}..{shown.stop - 1} of {size:,})"


def _axis(cells: int) -> alt.Axis:
    every = 1 if cells <= 8 else 4 if cells <= 16 else 8
    return alt.Axis(labelAngle=0, labelExpr=f"datum.value % {every} == 0 ? datum.value : ''", labelOverlap=False)
