"""Text: windows, what is found where, and a language model that learns it."""

import hashlib
import io
import math
import warnings
from pathlib import Path

import pytest
import torch

from miscompute import InvalidInput, inject, nvdla_small, parse_fault
from miscompute.experiment import Run, execute
from miscompute.tasks import (
    CHARACTERS,
    DATA_SETS,
    DataSet,
    Recipe,
    Training,
    accuracy,
    load_data,
    recipe_for,
    text,
)
from miscompute.tasks._sonnets import SONNETS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def sonnets() -> DataSet:
    return text("sonnets", SONNETS)


def read(tokens: torch.Tensor) -> str:
    return "".join(CHARACTERS[token] for token in tokens.tolist())


def test_a_window_and_what_follows(sonnets: DataSet) -> None:
    assert len(CHARACTERS) == 65
    assert "".join(CHARACTERS) == "".join(sorted(CHARACTERS))
    split = len(SONNETS) * 9 // 10
    assert len(sonnets.train_images) == len(sonnets.train_labels) == split - 64
    for place in (0, 1, 1000, split - 65):
        assert read(sonnets.train_images[place]) == SONNETS[place : place + 64]
        assert read(sonnets.train_labels[place]) == SONNETS[place + 1 : place + 65]
    windows = "".join(read(window) for window in sonnets.validation_images)
    assert SONNETS[split:].startswith(windows)  # each once, without a gap in a text as small as this
    assert len(SONNETS) - split - len(windows) <= 64
    assert read(sonnets.validation_labels[3]) == SONNETS[split + 3 * 64 + 1 : split + 4 * 64 + 1]


def test_windows_take_no_memory_of_their_own(sonnets: DataSet) -> None:
    storage = sonnets.train_images.untyped_storage()
    assert storage.nbytes() == 8 * len(SONNETS)


def test_a_model_for_it_can_be_built_before_it_is_loaded(sonnets: DataSet) -> None:
    source = DATA_SETS["tiny_shakespeare"]
    assert source.sizes == sonnets.sizes == {"context": 64, "classes": 65}
    assert (source.reads, sonnets.reads, source.classes) == ("tokens", "tokens", sonnets.classes)
    example = sonnets.normalised(sonnets.train_images[:5])
    assert (source.zeros(5).shape, source.zeros(5).dtype) == (example.shape, example.dtype)


def test_the_sonnets_are_whole() -> None:
    """Forty poems of fourteen lines. Whoever mends a word changes what runs on them learn, and so this digest."""
    poems = SONNETS.removesuffix("\n").split("\n\n")
    assert [len(poem.splitlines()) for poem in poems] == [14] * 40
    assert len(SONNETS) == 24_651
    assert (
        hashlib.sha256(SONNETS.encode()).hexdigest()
        == "f4463010bd56d6177820b24f7d50bfccf5e20f0b55e81fe7bee6c53044c82ab0"
    )


def test_texts_that_cannot_be_learnt() -> None:
    with pytest.raises(InvalidInput, match="text holds '1', which is none of its 65 characters"):
        text("numbers", "In 1597 a play " * 100)
    with pytest.raises(InvalidInput, match="text has 640 characters; it must have more than 640"):
        text("short", "a" * 640)
    assert len(text("long enough", "a" * 641).validation_labels) == 1


def test_where_it_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISCOMPUTE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("miscompute.tasks._data._CHECKOUT_DATA", tmp_path / "checkout")
    with pytest.warns(UserWarning, match=r"was not found, so the 24,651 characters of embedded sonnets are learnt"):
        stand_in = load_data("tiny_shakespeare")
    assert stand_in.name == "tiny_shakespeare (embedded sonnets)"
    with pytest.raises(InvalidInput, match=r"does not hold tinyshakespeare.txt; download https://"):
        load_data("tiny_shakespeare", folder=tmp_path)
    for place in ("checkout", "cache/miscompute", "variable", "folder"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "tinyshakespeare.txt").write_text(f"It is {place.replace('/', ' and ')}. " * 100)
        if place == "variable":
            monkeypatch.setenv("MISCOMPUTE_DATA", str(tmp_path / place))
        data = load_data("tiny_shakespeare", folder=tmp_path / place if place == "folder" else None)
        known = "checkout" if place == "cache/miscompute" else place
        assert read(data.train_images[0]).startswith(f"It is {known}. It is ")
        assert data.name == "tiny_shakespeare"
    (tmp_path / "folder" / "tinyshakespeare.txt").write_bytes(b"\xff\xfe" * 1000)
    with pytest.raises(InvalidInput, match=r"tinyshakespeare.txt' is damaged \(.*\); remove it or name another"):
        load_data("tiny_shakespeare", folder=tmp_path / "folder")


def test_tiny_shakespeare_from_the_development_data(development_data: Path) -> None:
    data = load_data("tiny_shakespeare", folder=development_data)
    assert len(data.train_images) == 1_115_394 * 9 // 10 - 64
    assert set(torch.unique(data.train_images[::64]).tolist()) == set(range(65))  # every character of ours is in it
    assert data.validation_labels.shape == (257, 64)


def tiny(data: str = "tiny_shakespeare", **changes: object) -> Recipe:
    return recipe_for(
        data, **{"width": 0.25, "lr": 5e-3, "schedule": "constant", "steps": 60, "batch_size": 16, **changes}
    )


def test_gpt_learns() -> None:
    """Two lines over and over: the next letter is nearly always certain, but not from the letter before it alone."""
    lines = text("lines", "Tomorrow, and tomorrow, and tomorrow,\nCreeps in this petty pace from day to day,\n" * 20)
    training = Training(tiny(steps=100, batch_size=4), lines)
    before = accuracy(training.model, lines)
    losses = []
    for _ in range(100):
        loss, right = training.gradients()
        training.update()
        losses.append(float(loss))
        assert 0 <= right <= 4 * 64
    assert losses[0] == pytest.approx(math.log(65), abs=0.2)
    assert sum(losses[-5:]) / 5 < 0.8
    assert before < 0.2
    assert accuracy(training.model, lines) > 0.6


def test_it_continues_from_its_state(sonnets: DataSet) -> None:
    whole, first, second = (Training(tiny(batch_size=4), sonnets) for _ in range(3))
    for step in range(6):
        whole.gradients()
        whole.update()
        if step < 3:
            first.gradients()
            first.update()
    stored = io.BytesIO()
    torch.save(first.state(), stored)
    stored.seek(0)
    second.load_state(torch.load(stored, weights_only=True))
    for _ in range(3):
        second.gradients()
        second.update()
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True))
    tied = second.model
    assert tied.get_parameter("head.weight") is tied.get_parameter("token.weight")


def test_accuracy_counts_tokens(sonnets: DataSet) -> None:
    class Blank(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.full_like(tokens, CHARACTERS.index(" ")), 65).float()

    labels = "".join(read(window) for window in sonnets.validation_labels)
    assert accuracy(Blank(), sonnets) == labels.count(" ") / len(labels)
    assert accuracy(Blank(), sonnets, batch_size=7) == labels.count(" ") / len(labels)


def test_a_run_is_reproduced_and_its_fault_is_felt(sonnets: DataSet, tmp_path: Path) -> None:
    recipe = tiny(steps=4, evaluate_every=2, batch_size=8)
    fault = parse_fault("weight[0,0] bit 28 stuck-at 0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of operators that are not lowered yet
        faulty = [
            execute(Run(name="faulty", recipe=recipe, array=nvdla_small(), fault=fault), sonnets, tmp_path / name)
            for name in ("first", "second")
        ]
    golden = execute(Run(name="golden", recipe=recipe), sonnets, tmp_path / "golden")
    assert faulty[0] == faulty[1]
    assert faulty[0].changed
    assert faulty[0].points != golden.points
    assert golden.validation_images == sonnets.validation_labels.numel()
    assert all(0 <= point.train_accuracy <= 1 and point.train_loss > 2 for point in golden.points)


def test_a_checkpoint_of_the_stand_in_is_not_continued_on_the_real_text(sonnets: DataSet, tmp_path: Path) -> None:
    run = Run(name="golden", recipe=tiny(steps=1, evaluate_every=1, batch_size=2))
    execute(run, sonnets, tmp_path)
    with pytest.raises(InvalidInput, match="belongs to another run: its data is 'sonnets', not 'plays'"):
        execute(run, text("plays", SONNETS), tmp_path)


def test_a_fault_reaches_the_tied_weight_in_the_output_layer(sonnets: DataSet) -> None:
    training = Training(tiny(steps=1), sonnets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with inject(training.model, parse_fault("weight[0,0] bit 28 stuck-at 0"), array=nvdla_small()) as injection:
            training.gradients()
    assert any(row.layer == "token" and row.pass_ == "forward" and row.reached for row in injection.log)
