"""Image mode: the reference that walks an image's lines, the rule for lanes, and what is injected, agree."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from miscompute import Layer, inject, nvdla
from miscompute.fault import BitOperation, parse_fault
from miscompute.formats import FORMATS
from miscompute.reference import layer_result

Array64 = NDArray[np.float64]


def operands(layer: Layer) -> tuple[Array64, Array64]:
    random = np.random.default_rng(3)
    words = np.concatenate([np.zeros(64), np.arange(-128, 128)])
    return random.choice(words, size=layer.shape("input")), random.choice(words, size=layer.shape("weight"))


def misread(values: Array64, effect: BitOperation) -> Array64:
    """Read non-zero int8 numbers wrong."""
    format = FORMATS["int8"]
    return np.where(values == 0, values, format.decode(effect.read(format.encode(values), format)))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("text", ["weight[2,1] bit 6 flip", "activation-all[4] bit 3 stuck-at 1"])
def test_column_s_and_channel_c_meet_on_a_lane(text: str, channels: int) -> None:  # lane = (s * IC + c) mod C
    """On 8 lanes; kernels of 5 columns and 3 or 4 channels fill more than one block."""
    layer = Layer(name="0", n=2, ic=channels, oc=5, size=(7, 9), kernel=(3, 5), stride=(2, 2), padding=(1, 2))
    array, fault = nvdla(rows=8, cols=4, format="int8", image_mode="first"), parse_fault(text)
    assert isinstance(fault.effect, BitOperation)
    x, w = operands(layer)
    expected = torch.zeros((2, 5, *layer.out_size), dtype=torch.float64)
    for s in range(5):
        for c in range(channels):
            is_hit = (s * channels + c) % 8 == fault.site.exposure(rows=8, cols=4).row  # type: ignore[union-attr]
            one, image = np.zeros_like(w), x.copy()
            one[:, c, :, s] = w[:, c, :, s]
            if is_hit and text.startswith("weight"):
                one[1::4] = misread(one[1::4], fault.effect)
            elif is_hit:
                image = misread(image, fault.effect)
            expected += F.conv2d(torch.from_numpy(image), torch.from_numpy(one), stride=(2, 2), padding=(1, 2))
    found = layer_result(array, fault, layer, "forward", {"input": x, "weight": w}, 0)
    np.testing.assert_array_equal(found.result, expected.numpy())
    model = torch.nn.Sequential(torch.nn.Conv2d(channels, 5, (3, 5), (2, 2), (1, 2), bias=False, dtype=torch.float64))
    model[0].weight = torch.nn.Parameter(torch.from_numpy(w))
    with inject(model, fault, array=array) as injection:
        injected = model(torch.from_numpy(x))
    np.testing.assert_array_equal(injected.detach().numpy(), expected.numpy())
    assert [(row.layer, row.pass_) for row in injection.log] == [("0", "forward")]


def test_a_cycle_s_word_is_where_the_order_of_an_image_puts_it() -> None:
    """Two blocks of 2 words for 3 columns, 2 rows, 5 pixels a line in stripes of 4 and 1."""
    layer = Layer(name="0", n=1, ic=1, oc=1, size=(3, 7), kernel=(2, 3))
    x, w = np.arange(1.0, 22.0).reshape(1, 1, 3, 7), np.ones((1, 1, 2, 3))
    array = nvdla(rows=2, cols=2, format="int8", image_mode="first")
    healthy = layer_result(array, None, layer, "forward", {"input": x, "weight": w}, 0)
    assert healthy.cycles == 2 * 5 * (2 * 2)
    # Line 1, its first stripe of 4 pixels: 20 cycles before it; block 1 (column 2), row 0, pixel 3 is 8 + 3 cycles on.
    cycle = 20 + 2 * 4 + 3
    fault = parse_fault(f"activation[0,0] bit 6 flip transient step 0 pass forward layer 0 cycle {cycle}")
    found = layer_result(array, fault, layer, "forward", {"input": x, "weight": w}, 0)
    assert np.argwhere(found.operands["input"].reached).tolist() == [[0, 0, 1, 3 + 2]]
    assert np.argwhere(found.touched).tolist() == [[0, 0, 1, 3]]
    assert (found.result - healthy.result)[0, 0, 1, 3] == 64


def test_a_register_that_changes_nothing_leaves_training_bit_identical() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.Conv2d(6, 4, 3))
    x = torch.randn(2, 3, 8, 8)

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        y = model(x)
        y.square().sum().backward()
        return [y.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    healthy = gradients()
    array = nvdla(rows=4, cols=4, image_mode="first")
    with inject(model, parse_fault("weight[1,2] bit 30 stuck-at 0"), array=array) as injection:
        found = gradients()
    assert all(torch.equal(a, b) for a, b in zip(healthy, found, strict=True))
    rows = {(row.layer, row.pass_): (row.reached, row.changed) for row in injection.log}
    # Words 1, 5 of a kernel row of 9, cell 2 alone; 3 rows. The second layer has channels 1 and 5, all 9 taps.
    assert rows["0", "forward"] == (2 * 3, 0)
    assert rows["1", "forward"] == (2 * 9, 0)
    with inject(model, parse_fault("weight[1,2] bit 31 flip"), array=array):
        wrong = gradients()
    assert not torch.equal(wrong[0], healthy[0])
