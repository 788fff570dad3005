"""A GPU's matrix unit: no places, elements of its results only."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import miscompute as mc
from miscompute import InvalidInput
from miscompute.error import ERROR_MODELS, Execution
from miscompute.fault import SITES, Elements, Exposure, Extent, FaultSpace, SumExposure, parse_fault
from miscompute.formats import FORMATS
from miscompute.hardware import MatrixUnit, RotateEachStep, array_named, matrix_unit
from miscompute.validation import check_array

ARRAY = matrix_unit()
PLACE = {"row": 0, "col": 0, "level": 1, "address": 0, "name": "0.weight", "state": "exp_avg", "index": 0, "first": 0}


def fault_at(word: str) -> mc.Fault:
    indices = ",".join(str({"length": 1, **PLACE}[index]) for index in SITES[word].indices)
    return parse_fault(f"{word}[{indices}] bit 0 flip")


def is_place(word: str) -> bool:
    return isinstance(fault_at(word).site.exposure(rows=1, cols=2), Exposure | SumExposure)


@pytest.mark.parametrize("word", SITES)
def test_registers_and_adders_are_refused_in_one_line_that_names_the_way_out(word: str) -> None:
    fault = fault_at(word)
    if not is_place(word):
        fault.check(ARRAY)
        return
    with pytest.raises(InvalidInput, match=r"only the statistics of wrong results are known") as caught:
        fault.check(ARRAY)
    message = str(caught.value)
    assert message.startswith(f"site {fault.site}: of a GPU's matrix unit ")
    assert "\n" not in message
    models = re.findall(r"gpu-[a-z-]+", message)
    assert set(models) == {name for name in ERROR_MODELS if name.startswith("gpu-")}
    for act in (
        lambda: mc.lower(fault, ARRAY, mc.Layer(name="fc", n=1, ic=2, oc=3)),
        lambda: mc.inject(nn.Linear(2, 3), fault, array=ARRAY),
    ):
        with pytest.raises(InvalidInput, match=f"^{re.escape(message)}$"):
            act()


def test_a_place_that_it_would_not_have_anyway_is_refused_in_the_same_words() -> None:
    with pytest.raises(InvalidInput, match=r"^site weight\[99,99\]: of a GPU's matrix unit only the statistics"):
        parse_fault("weight[99,99] bit 0 flip").check(ARRAY)
    for pattern in ("weight[*,*] bit 0 flip", "adder[*,*] bit 0 flip", "accumulator[*] bit 0 flip"):
        with pytest.raises(InvalidInput, match="only the statistics of wrong results are known"):
            FaultSpace.parse(pattern, Extent(array=ARRAY))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", [name for name in ERROR_MODELS if name.startswith(("gpu-", "isca2023-output"))])
def test_error_models_hit_neighbours_in_its_result(name: str) -> None:
    """Output channels of one position, and then of the next."""
    conv, x = nn.Conv2d(3, 5, 2, bias=False), torch.arange(1.0, 97.0).view(2, 3, 4, 4)
    with torch.no_grad():
        conv.weight.copy_(torch.arange(60).view(5, 3, 2, 2) % 7 + 1)  # sums are exact, in whatever order
    (layer,) = mc.trace(conv, x)
    seen = ARRAY.seen(layer, "forward")
    fault = ERROR_MODELS[name](Execution(layer=seen, pass_="forward", step=0), np.random.default_rng(4))
    assert isinstance(fault.site, Elements)
    y = conv(x)
    with mc.inject(conv, fault, array=ARRAY) as injection:
        found = conv(x)
    as_rows = [values.movedim(1, -1).reshape(-1).detach() for values in (y, found)]  # (n * pixels, oc)
    wrong = torch.nonzero(as_rows[0] != as_rows[1]).flatten().tolist()
    first = fault.site.first
    assert wrong
    assert set(wrong) <= set(range(first, first + fault.site.length))
    assert injection.log.reached == fault.site.length <= 18 * 5


def test_the_population_of_its_faults_is_that_of_elements() -> None:
    layer = mc.Layer(name="conv", n=2, ic=3, oc=5, size=(4, 4), kernel=(2, 2))
    extent = Extent(array=ARRAY, layers=(layer,), steps=1)
    space = FaultSpace.parse("result-elements[*,16] set-to 0.0 transient step 0 pass forward layer conv", extent)
    assert space.size == 18 * 5 - 15


def test_it_is_in_the_catalogue_and_has_no_swizzle_and_no_reference() -> None:
    assert (
        array_named("matrix-unit", format="bf16")
        == matrix_unit(format="bf16")
        == replace(ARRAY, format=FORMATS["bf16"])
    )
    with pytest.raises(InvalidInput, match="of a matrix unit: no lanes are known to move channels over"):
        MatrixUnit(swizzle=RotateEachStep())
    with pytest.raises(InvalidInput, match=r"^array=MatrixUnit has no reference: of a GPU's matrix unit only"):
        check_array(ARRAY, cases=1)
