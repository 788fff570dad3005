"""The picture of a lowering, by hand: marks are where the fault is, and what it touches."""

import re
from pathlib import Path
from typing import Any

import pytest

from miscompute import InvalidInput, Layer, lower, nvdla, nvdla_small, parse_fault
from miscompute.hardware import Array, array_named, simd, systolic
from miscompute.report import lowering_chart, write_drawing

CONV = Layer(name="conv", n=9, ic=10, oc=9, size=(4, 4), kernel=(3, 3))
FC = Layer(name="fc", n=4, ic=5, oc=6, index=1)


def panels(fault: str, array: Array, layer: Layer = CONV) -> list[dict[str, Any]]:
    """Give the array and the three passes: title, subtitle and the places marked, by their mark."""
    parsed = parse_fault(fault)
    seen = layer.as_matmul() if array.im2col else layer
    chart = lowering_chart(array, parsed, seen, lower(parsed, array, [layer, FC])).to_dict()
    found = []
    for panel in chart["hconcat"]:
        values = panel["data"]["values"] if "values" in panel["data"] else chart["datasets"][panel["data"]["name"]]
        marks: dict[str, set[tuple[int, int]]] = {}
        for value in values:
            if "is" in value:
                marks.setdefault(value["is"], set()).add((value["row"], value["col"]))
        found.append({"title": panel["title"]["text"], "more": panel["title"]["subtitle"], "values": values, **marks})
        if "encoding" in panel and "x" in panel["encoding"]:
            found[-1]["axes"] = tuple(panel["encoding"][axis]["title"] for axis in "yx")
    return found


def test_a_register_s_picture() -> None:
    """On 8 x 8 MACs, cell 1 computes 1 and 9, lane 0 carries 0 and 8."""
    array, forward, grad_input, grad_weight = panels("weight[0,1] bit 28 stuck-at 0", nvdla_small())
    assert array["MAC at the fault"] == {(0, 1)}
    assert len(array["MAC"]) == 63
    assert array["more"] == ["1 of 64 MACs at the fault"]
    assert (forward["title"], forward["axes"]) == ("forward: weight", ("oc", "ic"))
    assert forward["touched"] == {(1, 0), (1, 8)}
    assert forward["more"] == ["18 of 810 touched, 2.22 %"]
    assert len(forward["not touched"]) == 88
    assert grad_input["touched"] == {(0, 1), (0, 9), (8, 1), (8, 9)}
    assert (grad_weight["title"], grad_weight["axes"]) == ("grad_weight: grad_output", ("n", "oc"))
    assert grad_weight["touched"] == {(0, 1), (8, 1)}


@pytest.mark.parametrize(
    ("fault", "array", "wanted"),
    [
        ("activation[2,1] bit 1 flip", nvdla_small(), {(2, 1)}),
        ("activation-half[2,1] bit 1 flip", nvdla_small(), {(2, col) for col in range(4)}),
        ("weight-bus[3] bit 1 flip", nvdla_small(), {(3, col) for col in range(8)}),
        ("product[3,2] bit 1 flip", nvdla_small(), {(3, 2)}),
        ("adder[5,2,2] bit 1 flip", nvdla_small(), {(row, 2) for row in range(4, 8)}),
        ("accumulator[2] bit 1 flip", nvdla_small(), {(row, 2) for row in range(8)}),
        ("accumulator-pe[1,2] bit 1 flip", systolic(rows=3, cols=4, dataflow="output-stationary"), {(1, 2)}),
        ("accumulator[2] bit 1 flip", simd(lanes=4), {(0, 2)}),
    ],
)
def test_where_faults_are_in_the_array(fault: str, array: Array, wanted: set[tuple[int, int]]) -> None:
    assert panels(fault, array)[0]["MAC at the fault"] == wanted


def test_sums_are_drawn_in_the_results() -> None:
    _, forward, *_ = panels("cell[1] bit 1 flip", nvdla_small())
    assert (forward["title"], forward["axes"]) == ("forward: results, by partial sum", ("n", "oc"))
    assert forward["touched"] == {(n, 1) for n in range(9)}


def test_an_operand_that_some_results_read_says_so() -> None:
    _, forward, *_ = panels("activation[2,1] bit 1 flip", nvdla_small())
    assert forward["more"] == ["144 of 1,440 touched, 10.00 %", "as some results read it only"]  # channel 2, 9 images


def test_elements_are_drawn_where_they_are_and_a_part_looks_like_one() -> None:
    """The weight is (9, 10, 3, 3): elements 85..94 end oc 0, ic 9 (81..89) and begin oc 1, ic 0."""
    array, forward, _, grad_weight = panels("weight-elements[85,14] bit 1 flip", nvdla_small())
    assert "MAC at the fault" not in array
    assert array["more"] == ["the fault names elements, no place"]
    assert forward["touched in part"] == {(0, 9)}
    assert forward["touched"] == {(1, 0)}
    assert forward["more"] == ["14 of 810 touched, 1.73 %"]
    assert grad_weight["values"] == [{"said": "not reached"}]


def test_a_fault_in_one_pass_of_one_layer_is_drawn_there_only() -> None:
    where = "bit 1 flip transient step 3 pass grad_input layer"
    _, *passes = panels(f"weight[0,1] {where} conv", nvdla_small())
    assert [panel["title"] for panel in passes if "touched" in panel] == ["grad_input: weight"]
    _, *passes = panels(f"weight[0,1] {where} fc", nvdla_small())
    assert all(panel["values"] == [{"said": "not reached"}] for panel in passes)


def test_of_groups_all_are_drawn_on_top_of_each_other() -> None:
    """Two groups of three by two channels: lane 0 and cell 0 of two lanes and cells, ic 0 of each, oc 0 and 2, or 1."""
    layer = Layer(name="grouped", n=2, ic=4, oc=6, size=(4, 4), kernel=(2, 2), groups=2)
    _, forward, *_ = panels("weight[0,0] bit 1 flip", nvdla(rows=2, cols=2), layer)
    assert forward["axes"] == ("oc", "ic")
    assert forward["touched in part"] == {(0, 0), (1, 0), (2, 0)}
    assert forward["more"] == ["12 of 48 touched, 25.00 %"]


@pytest.mark.parametrize(
    "fault", ["weight[0,0] bit 1 flip", "grad-output-elements[3,40] bit 1 flip", "cell[1] bit 1 flip"]
)
def test_a_transposed_convolution_is_drawn_as_it_is_lowered(fault: str) -> None:
    layer = Layer(name="up", n=2, ic=3, oc=4, size=(6, 6), kernel=(2, 2), stride=(2, 2), transposed=True)
    for panel in panels(fault, nvdla(rows=2, cols=2), layer)[1:]:
        if said := re.match("([0-9]+) of ([0-9]+) touched", panel["more"][0]):
            cells = {name: len(panel.get(name, ())) for name in ("touched", "touched in part", "not touched")}
            each = int(said[2]) // sum(cells.values())
            assert cells["touched"] * each <= int(said[1]) <= (cells["touched"] + cells["touched in part"]) * each


def test_of_large_arrays_and_tensors_a_window_is_drawn() -> None:
    layer = Layer(name="wide", n=2, ic=200, oc=100)
    array, forward, *_ = panels("weight[100,90] bit 1 flip", array_named("systolic-ws"), layer)
    assert (100, 90) in array["MAC at the fault"]
    assert array["axes"] == ("row: lane (96..111 of 128)", "column: cell (86..101 of 128)")
    assert forward["axes"] == ("oc (68..99 of 100)", "ic (92..123 of 200)")
    assert forward["touched"] == {(90, 100)}
    assert forward["more"] == ["1 of 20,000 touched, 0.01 %"]


def test_the_title_says_fault_array_and_layer() -> None:
    fault = parse_fault("weight[0,0] bit 1 flip")
    title = lowering_chart(nvdla_small(), fault, CONV, lower(fault, nvdla_small(), CONV)).to_dict()["title"]
    assert title["text"] == "weight[0,0] bit 1 flip"
    assert title["subtitle"] == "Nvdla, 8 x 8 MACs; layer conv: n 9, ic 10, oc 9, kernel 3 x 3"


def test_the_drawing_is_a_png_an_svg_and_a_page_that_needs_no_network(tmp_path: Path) -> None:
    fault = parse_fault("weight[0,0] bit 1 flip")
    chart = lowering_chart(nvdla_small(), fault, CONV, lower(fault, nvdla_small(), CONV))
    png, svg, html = write_drawing(chart, tmp_path / "fc1.weight")
    assert [path.name for path in (png, svg, html)] == ["fc1.weight.png", "fc1.weight.svg", "fc1.weight.html"]
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert svg.read_text().startswith("<svg")
    assert "forward: weight" in svg.read_text()
    assert not re.search(r"<(script|link|iframe)\b[^>]*\b(src|href)=", html.read_text())


def test_a_fault_in_memory_has_no_picture() -> None:
    fault = parse_fault("weight-memory[fc.weight,0] bit 1 flip")
    with pytest.raises(InvalidInput, match=r"is in memory, which is not in the picture of the array; leave draw out"):
        lowering_chart(nvdla_small(), fault, CONV, lower(fault, nvdla_small(), CONV))
