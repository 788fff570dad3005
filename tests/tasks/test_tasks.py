"""Tasks: data, models and recipes are what they say, and the same every time."""

import hashlib
import http.client
import io
import math
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from miscompute import InvalidInput
from miscompute.tasks import (
    DATA_SETS,
    OPTIMIZERS,
    RECIPES,
    SCHEDULES,
    DataSet,
    Recipe,
    Training,
    accuracy,
    load_data,
    recipe_for,
)
from miscompute.tasks._data import _mean_and_std, crop_and_mirror

ARCHIVE = {
    "data_batch_1": 2,
    "data_batch_2": 1,
    "data_batch_3": 1,
    "data_batch_4": 3,
    "data_batch_5": 1,
    "test_batch": 2,
}

pytestmark = pytest.mark.usefixtures("one_thread")


def test_cluttered_digits_are_the_same_every_time(digits: DataSet) -> None:
    a, b = digits, load_data("cluttered_digits")
    assert torch.equal(a.train_images, b.train_images)
    assert torch.equal(a.validation_labels, b.validation_labels)
    assert a.train_images.shape == (80_000, 1, 32, 32)
    assert a.validation_images.shape == (2_000, 1, 32, 32)
    assert torch.bincount(a.validation_labels).min() > 100
    normalised = a.normalised(a.train_images[:10_000])
    assert abs(float(normalised.mean())) < 0.02
    assert abs(float(normalised.std()) - 1) < 0.02


def test_mean_and_std_are_numpys_to_the_bit(digits: DataSet) -> None:
    """Not of all images, whose floats take a gigabyte; of numbers around where the parts are cut, and odd ones."""
    values = digits.train_images.numpy().reshape(-1)
    for size in (1, 129, 1 << 20, (1 << 20) + 1, (1 << 21) + 13, 7_654_321):
        scaled = values[:size] / np.float32(255)
        assert _mean_and_std(values[:size]) == (float(scaled.mean()), float(scaled.std()))
    assert (digits.mean, digits.std) == ((0.12439582496881485,), (0.2847510576248169,))  # numpy's of all


def test_an_embedded_data_set_needs_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="of no use: data=cluttered_digits is embedded; leave it out"):
        load_data("cluttered_digits", folder=tmp_path)


def test_training_and_validation_show_different_digits(digits: DataSet) -> None:
    """The digit on top is whole: each is found among the enlarged originals, and in one part only."""
    from sklearn.datasets import load_digits

    source = load_digits()
    originals = np.kron(np.minimum(source.images * 16, 255).astype(np.uint8), np.ones((1, 2, 2), np.uint8))
    known = {original.tobytes(): number for number, original in enumerate(originals)}

    def shown(images: Tensor, labels: Tensor) -> set[int]:
        windows = images[:, 0].unfold(1, 16, 1).unfold(2, 16, 1)  # (n, 32, 32) -> (n, 17, 17, 16, 16)
        found = set()
        for of_image, label in zip(windows.numpy(), labels.tolist(), strict=True):
            whole = {known.get(np.ascontiguousarray(w).tobytes()) for w in of_image.reshape(-1, 16, 16)} - {None}
            numbers = {number for number in whole if number is not None}
            assert label in {int(source.target[number]) for number in numbers}
            found |= numbers
        return found

    training = shown(digits.train_images[:400], digits.train_labels[:400])
    validation = shown(digits.validation_images[:400], digits.validation_labels[:400])
    assert min(len(training), len(validation)) > 200
    assert not training & validation


def test_the_official_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten images in its six files: a record is a label and the red, the green and the blue plane."""
    random = np.random.default_rng(0)
    records = {name: random.integers(0, 256, (n, 3073), np.uint8) for name, n in ARCHIVE.items()}
    archive = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, record in records.items():
            record[:, 0] %= 10
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = record.size
            tar.addfile(member, io.BytesIO(record.tobytes()))
    with pytest.raises(
        InvalidInput, match=r"is damaged \(its MD5 is not c32a1d4ab5d03f1284b67883e8d87530\); remove it"
    ):
        load_data("cifar10", folder=tmp_path)
    monkeypatch.setattr("miscompute.tasks._data._CIFAR10_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    data = load_data("cifar10", folder=tmp_path)
    assert (len(data.train_images), len(data.validation_images)) == (8, 2)
    second, test = records["data_batch_2"], records["test_batch"]
    assert data.train_labels[2] == int(second[0, 0])
    assert int(data.train_images[2, 1, 3, 7]) == second[0, 1 + 1024 + 3 * 32 + 7]
    assert int(data.validation_images[1, 2, 31, 0]) == test[1, 1 + 2048 + 31 * 32]


def test_a_download_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.BytesIO):
        headers: ClassVar = {"Content-Length": "1000"}

        def read(self, size: int | None = -1, /) -> bytes:
            raise http.client.IncompleteRead(b"")

    monkeypatch.delenv("MISCOMPUTE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("miscompute.tasks._data._CHECKOUT_DATA", tmp_path / "nothing")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Broken())
    with pytest.raises(InvalidInput, match="could not be downloaded"):
        load_data("cifar10")
    assert not list((tmp_path / "miscompute").iterdir())


def test_cifar10_from_the_development_data(cifar10_data: DataSet) -> None:
    data = cifar10_data
    assert data.train_images.shape == (50_000, 3, 32, 32)
    assert torch.equal(torch.bincount(data.validation_labels), torch.full((10,), 1_000))
    scaled = data.train_images[:5_000].double() / 255
    assert scaled.mean((0, 2, 3)).numpy() == pytest.approx(np.array(data.mean), abs=0.01)


def test_crop_and_mirror_gives_windows_of_the_padded_image() -> None:
    images = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    moved = crop_and_mirror(images, torch.Generator().manual_seed(2))
    assert torch.equal(moved, crop_and_mirror(images, torch.Generator().manual_seed(2)))
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
    for image, window in zip(padded, moved, strict=True):
        windows = [image[:, down : down + 8, right : right + 8] for down in range(9) for right in range(9)]
        assert any(torch.equal(window, w) or torch.equal(window, w.flip(2)) for w in windows)


def test_crop_and_mirror_moves_and_mirrors() -> None:
    image = torch.arange(1.0, 1025.0).view(1, 1, 32, 32).repeat(200, 1, 1, 1)
    moved = crop_and_mirror(image, torch.Generator().manual_seed(0))
    centres = moved[:, 0, 16, 15:17]  # neighbours differ by one: upwards, or downwards where mirrored
    steps = centres[:, 1] - centres[:, 0]
    assert set(steps.tolist()) == {1.0, -1.0}
    assert 60 < int((steps < 0).sum()) < 140
    assert len({tuple(row) for row in centres.tolist()}) > 50


BAD_RECIPES: dict[str, tuple[Any, str]] = {
    "model": ("vgg", "model='vgg' is unknown; choose one of alexnet, lenet5"),
    "optimizer": ("lion", "optimizer='lion' is unknown; choose one of adam, adamw, sgd"),
    "schedule": ("linear", "schedule='linear' is unknown; choose one of constant, cosine, one-cycle"),
    "width": (math.inf, "width=inf must be greater than 0 and finite"),
    "lr": (0.0, "lr=0.0 must be greater than 0 and finite"),
    "momentum": (math.nan, "momentum=nan must not be negative, and must be finite"),
    "weight_decay": (-1.0, "weight_decay=-1.0 must not be negative, and must be finite"),
    "batch_size": (0, "batch_size=0 must be at least 1"),
    "steps": (-3, "steps=-3 must be at least 1"),
    "evaluate_every": (0, "evaluate_every=0 must be at least 1"),
    "validation_examples": (0, "validation_examples=0 must be at least 1; leave it out for all"),
    "seed": (1 << 63, "seed=9223372036854775808 must be less than 2**63"),
}


@pytest.mark.parametrize("field", BAD_RECIPES)
def test_bad_recipes_say_what_is_allowed(field: str) -> None:
    value, message = BAD_RECIPES[field]
    with pytest.raises(InvalidInput, match=re.escape(message)):
        recipe_for("cluttered_digits", **{field: value})


def test_more_images_a_step_than_there_are(few_digits: DataSet) -> None:
    with pytest.raises(InvalidInput, match="batch_size=128 is more than the 100 training images of cluttered_digits"):
        Training(recipe_for("cluttered_digits", batch_size=128), few_digits)


def test_an_evaluation_may_take_the_first_validation_examples_only(few_digits: DataSet) -> None:
    first = Training(recipe_for("cluttered_digits", validation_examples=7), few_digits)
    right = first.model.eval()(few_digits.normalised(few_digits.validation_images[:7])).argmax(-1)
    assert accuracy(first.model, first.data) == float((right == few_digits.validation_labels[:7]).sum()) / 7
    available = len(few_digits.validation_labels)
    with pytest.raises(
        InvalidInput, match=f"={available + 1} is more than the {available} of cluttered_digits; leave it"
    ):
        Training(recipe_for("cluttered_digits", validation_examples=available + 1), few_digits)


def test_a_model_and_data_that_do_not_fit(few_digits: DataSet) -> None:
    with pytest.raises(InvalidInput, match=r"model='gpt' reads tokens, but data=cifar10 is images; choose .* alexnet,"):
        recipe_for("cifar10", model="gpt")
    with pytest.raises(InvalidInput, match=r"model='mlp' reads images, but data=tiny_shakespeare is tokens; .* gpt$"):
        recipe_for("tiny_shakespeare", model="mlp")
    with pytest.raises(InvalidInput, match="model='gpt' reads tokens, but data=cluttered_digits is images"):
        Training(Recipe(data="my own", model="gpt"), few_digits)


def test_the_width_is_of_the_recipes_own_model() -> None:
    assert recipe_for("cluttered_digits").width == recipe_for("cluttered_digits", model="alexnet").width == 0.125
    assert recipe_for("cluttered_digits", model="lenet5").width == 1
    assert recipe_for("cluttered_digits", model="lenet5", width=0.5).width == 0.5


def test_an_epoch_shows_every_image_once(few_digits: DataSet) -> None:
    training = Training(recipe_for("cluttered_digits", batch_size=25, width=0.05), few_digits)

    def epoch() -> Tensor:
        batches = []
        for _ in range(4):
            batches.append(training.batch()[0])
            training.step += 1
        return torch.cat(batches).flatten(1)

    first, second = epoch(), epoch()
    every = few_digits.normalised(few_digits.train_images).flatten(1)
    assert sorted(map(tuple, first.tolist())) == sorted(map(tuple, every.tolist()))
    assert sorted(map(tuple, second.tolist())) == sorted(map(tuple, every.tolist()))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_optimizer_follows_the_schedule(name: str, few_digits: DataSet) -> None:
    recipe = recipe_for("cluttered_digits", schedule=name, steps=10, batch_size=4, width=0.05, optimizer="sgd")
    training = Training(recipe, few_digits)
    for step in range(10):
        training.gradients()
        training.update()
        assert training.optimizer.param_groups[0]["lr"] == recipe.lr * SCHEDULES[name](step / 10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_stay_within_the_highest_rate(name: str) -> None:
    factors = [SCHEDULES[name](done) for done in np.linspace(0, 1, 101)]
    assert max(factors) == pytest.approx(1)
    assert min(factors) >= 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_learns_and_continues_from_its_state(optimizer: str, few_digits: DataSet) -> None:
    data = few_digits
    recipe = recipe_for("cluttered_digits", optimizer=optimizer, steps=4, batch_size=8, width=0.05)
    whole, first, second = (Training(recipe, data) for _ in range(3))
    for step in range(4):
        whole.gradients()
        whole.update()
        if step < 2:
            first.gradients()
            first.update()
    torch.manual_seed(0)  # what else happens to PyTorch's generator does not matter
    stored = io.BytesIO()
    torch.save(first.state(), stored)
    stored.seek(0)
    second.load_state(torch.load(stored, weights_only=True))
    for _ in range(2):
        second.gradients()
        second.update()
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_of_their_data_set(name: str) -> None:
    assert recipe_for(name) == RECIPES[name]
    assert RECIPES[name].data == name
    assert recipe_for(name, lr=0.5, seed=None) == replace(RECIPES[name], lr=0.5)


def test_every_data_set_has_a_recipe() -> None:
    assert RECIPES.keys() == DATA_SETS.keys()
