"""The colours of a change and of a magnitude, and how channels are laid out."""

import base64
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from miscompute.pvf import FeatureMap
from miscompute.report import _damage as module
from miscompute.report._vulnerability import PVF_COLORS

pytestmark = pytest.mark.usefixtures("one_thread")


def test_changes_are_coloured_by_decade_and_what_is_the_same_is_white() -> None:
    golden = torch.ones(1, 2, 3)
    faulty = golden + torch.tensor([[[0.0, 0.001, 0.1], [1e6, torch.inf, torch.nan]]])
    colors = module._changes(FeatureMap(name="one", golden=golden, faulty=faulty))[0]
    as_hex = [["#" + bytes(pixel).hex() for pixel in row] for row in colors.tolist()]
    assert as_hex[0][0] == "#ffffff"
    assert as_hex[0][1] == PVF_COLORS[0]
    assert as_hex[1] == [PVF_COLORS[-1], module._NONFINITE, module._NONFINITE]
    assert as_hex[0][2] == module._hex(0.5)


def test_magnitudes_are_grey_up_to_the_fault_free_maximum() -> None:
    golden = torch.tensor([0.0, -2.0, 1.0])
    colors = module._magnitudes(torch.tensor([0.0, 50.0, torch.nan]), golden)
    assert colors.tolist() == [[255] * 3, [0] * 3, list(module._rgb(module._NONFINITE))]


@pytest.mark.parametrize(
    ("shape", "laid"), [((5,), (3, 3)), ((4, 7), (4, 7)), ((5, 2, 4), (2 * 3, 3 * 5)), ((1, 2, 2), (3, 3))]
)
def test_channels_are_laid_out_as_a_square(shape: tuple[int, ...], laid: tuple[int, int]) -> None:
    colors = np.random.default_rng(0).integers(0, 200, (*shape, 3)).astype(np.uint8)
    found = module._montage(colors)
    assert found.shape == (*laid, 3)
    if len(shape) == 3:
        assert np.array_equal(found[:2, : shape[2]], colors[0])
        if shape[0] > 3:
            assert np.array_equal(found[3:5, : shape[2]], colors[3])
    if len(shape) == 1:
        assert np.array_equal(found.reshape(-1, 3)[:5], colors)


def test_a_picture_is_its_own_address() -> None:
    colors = np.zeros((3, 5, 3), np.uint8)
    colors[1, 2] = 250
    kind, _, data = module._url(colors).partition(",")
    picture = Image.open(BytesIO(base64.b64decode(data))).convert("RGB")
    assert kind == "data:image/png;base64"
    factor = picture.width // 5
    assert picture.size == (5 * factor, 3 * factor)
    assert picture.getpixel((2 * factor + 1, factor + 1)) == (250, 250, 250)
