"""Tasks: data, models and recipes are what they say, and the same every time."""

from pathlib import Path

import numpy as np
import pytest
import torch

from miscompute.tasks import (
    DATA_SETS,
    MODELS,
    OPTIMIZERS,
    RECIPES,
    SCHEDULES,
    Training,
    build_model,
    load_data,
    recipe_for,
)
from miscompute.tasks._data import crop_and_mirror

pytestmark = pytest.mark.usefixtures("one_thread")


def test_cluttered_digits_are_the_same_every_time() -> None:
    a, b = load_data("cluttered_digits"), load_data("cluttered_digits")
    assert torch.equal(a.train_images, b.train_images)
    assert torch.equal(a.validation_labels, b.validation_labels)
    assert a.train_images.shape == (80_000, 1, 32, 32)
    assert a.validation_images.shape == (2_000, 1, 32, 32)
    assert torch.bincount(a.validation_labels).min() > 100
    normalised = a.normalised(a.train_images[:10_000])
    assert abs(float(normalised.mean())) < 0.02
    assert abs(float(normalised.std()) - 1) < 0.02


def test_cifar10_from_the_development_data() -> None:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not (folder / "cifar10").is_dir():
        pytest.skip(f"CIFAR-10 is not at {folder}")
    data = load_data("cifar10", folder=folder)
    assert data.train_images.shape == (50_000, 3, 32, 32)
    assert torch.equal(torch.bincount(data.validation_labels), torch.full((10,), 1_000))
    scaled = data.train_images[:5_000].double() / 255
    assert scaled.mean((0, 2, 3)).numpy() == pytest.approx(np.array(data.mean), abs=0.01)


def test_crop_and_mirror_moves_and_mirrors() -> None:
    image = torch.arange(1.0, 1025.0).view(1, 1, 32, 32).repeat(200, 1, 1, 1)
    moved = crop_and_mirror(image, torch.Generator().manual_seed(0))
    centres = moved[:, 0, 16, 15:17]  # neighbours differ by one: upwards, or downwards where mirrored
    steps = centres[:, 1] - centres[:, 0]
    assert set(steps.tolist()) == {1.0, -1.0}
    assert 60 < int((steps < 0).sum()) < 140
    assert len({tuple(row) for row in centres.tolist()}) > 50


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_models(name: str, channels: int) -> None:
    state = torch.get_rng_state()
    model = build_model(name, channels=channels, classes=10, width=0.5, seed=3)
    again = build_model(name, channels=channels, classes=10, width=0.5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert model(torch.zeros(2, channels, 32, 32)).shape == (2, 10)


def test_sizes_are_the_published_ones() -> None:
    def parameters(name: str, channels: int) -> int:
        return sum(p.numel() for p in build_model(name, channels=channels, classes=10).parameters())

    assert parameters("lenet5", 1) == 61_706  # with full connections between the convolutions
    assert parameters("alexnet", 3) == 2_264_906


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_stay_within_the_highest_rate(name: str) -> None:
    factors = [SCHEDULES[name](done) for done in np.linspace(0, 1, 101)]
    assert max(factors) == pytest.approx(1)
    assert min(factors) >= 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_learns_and_continues_from_its_state(optimizer: str) -> None:
    data = load_data("cluttered_digits")
    recipe = recipe_for("cluttered_digits", optimizer=optimizer, steps=4, batch_size=8, width=0.05)
    whole, first, second = (Training(recipe, data) for _ in range(3))
    for step in range(4):
        whole.gradients()
        whole.update()
        if step < 2:
            first.gradients()
            first.update()
    second.load_state(first.state())
    for _ in range(2):
        second.gradients()
        second.update()
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True))


def test_every_data_set_has_a_recipe() -> None:
    assert RECIPES.keys() == DATA_SETS.keys()
