"""Which faults there are, and what their words are read as."""

import numpy as np
import pytest
import torch
from torch import nn

from miscompute._invalid import InvalidInput
from miscompute.fault import Flip, RandomFlips, StuckAt
from miscompute.formats import FORMATS, format_named
from miscompute.pvf import KINDS, Faults, effects_of, rounded_to


def test_every_kind_gives_effects_that_fit() -> None:
    for kind in KINDS:
        word = f"{kind}:2" if kind in ("burst", "random-bits") else kind
        effects = effects_of([word], FORMATS["fp16"])
        assert effects
        for effect in effects:
            effect.check(FORMATS["fp16"])
    assert len(effects_of(["flip", "stuck-at-1", "burst:3"], FORMATS["bf16"])) == 16 + 16 + 14


def test_a_kind_that_is_named_twice_is_no_second_fault() -> None:
    flips = effects_of(["flip"], FORMATS["fp32"])
    assert effects_of(["flip", "flip"], FORMATS["fp32"]) == flips
    assert effects_of(["burst:1", "flip"], FORMATS["fp32"]) == flips


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ([], "must name at least one"),
        (["flop"], "kind='flop' is unknown"),
        (["flip:2"], "kind='flip:2' is unknown"),
        (["burst"], "kind='burst:' needs a number of bits from 1 to 32"),
        (["burst:33"], "from 1 to 32, as in burst:2"),
        (["random-bits:x"], "from 1 to 32, as in random-bits:2"),
    ],
)
def test_other_kinds_are_refused(kinds: list[str], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        effects_of(kinds, FORMATS["fp32"])


def test_values_are_the_words_with_the_effect() -> None:
    parameter = torch.tensor([[1.0, -2.0], [0.5, 0.0]])
    effects = (Flip(bits=(31,)), StuckAt(bit=23, value=0), StuckAt(bit=30, value=1))
    faults = Faults(parameter="w", elements=(3, 1), effects=effects)
    assert len(faults) == 6
    values = faults.values(parameter, FORMATS["fp32"])
    assert values.tolist() == [[-0.0, 0.0, 2.0], [2.0, -2.0, -2.0]]


def test_integers_are_flipped_in_units_of_their_scale() -> None:
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[31.7, -0.3]]))
    formats = rounded_to(model, ["weight"], format_named("int8:max"))
    assert model.weight.flatten().tolist() == pytest.approx([31.7, -0.2496063], rel=1e-6)
    faults = Faults(parameter="weight", elements=(1,), effects=(Flip(bits=(7,)),))
    assert float(faults.values(model.weight, formats["weight"])) == pytest.approx(127 * 31.7 / 127, rel=1e-6)


def test_random_bits_belong_to_the_word_not_to_the_call() -> None:
    parameter = torch.arange(8.0)
    effects = (RandomFlips(seed=0, weights=(0.0, 0.0, 1.0)),)

    def words(elements: tuple[int, ...], name: str = "w") -> list[int]:
        read = Faults(parameter=name, elements=elements, effects=effects).values(parameter, FORMATS["fp32"])
        before = parameter[list(elements)].numpy().view(np.uint32)
        return [int(word).bit_count() for word in before ^ read[:, 0].numpy().view(np.uint32)] + read[:, 0].tolist()

    assert words((1, 2, 5))[:3] == [3, 3, 3]
    assert words((5,))[1:] == words((1, 2, 5))[5:]
    assert words((5,), "v")[1:] != words((5,))[1:]


@pytest.mark.parametrize(
    ("elements", "said"), [((), "need elements and effects"), ((1, 1), "different places"), ((-1,), "none negative")]
)
def test_faults_that_cannot_be(elements: tuple[int, ...], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Faults(parameter="w", elements=elements, effects=(Flip(bits=(0,)),))


def test_parameters_that_cannot_be_rounded() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(InvalidInput, match=r"format=int8 counts in whole numbers; give it a scale, as in int8:max"):
        rounded_to(model, ["weight"], FORMATS["int8"])
    with torch.no_grad():
        model.bias[0] = torch.inf
    with pytest.raises(InvalidInput, match="parameter 'bias' is not finite without any fault"):
        rounded_to(model, ["bias"], FORMATS["fp32"])
    with pytest.raises(InvalidInput, match=r"parameter 'weight' is float64; use model.float\(\)"):
        rounded_to(model.double(), ["weight"], FORMATS["fp32"])
