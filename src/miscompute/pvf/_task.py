"""The vulnerability of a task's model: trained first if there is no checkpoint."""

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .._invalid import InvalidInput
from ..experiment import replacing, usable
from ..formats import format_named
from ..tasks import DATA_SETS, DataSet, Recipe, Training, build_model, cluttered_digits, load_data, without_memory
from ._criteria import check_criteria
from ._draws import check_drawn
from ._faults import Protection, effects_of
from ._result import Vulnerability
from ._vulnerability import parameter_names, vulnerability

Report = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much."""


def measure_task(
    recipe: Recipe,
    out: Path,
    *,
    checkpoint: Path | None = None,
    parameters: Sequence[str] | None = None,
    kinds: Sequence[str] = ("flip",),
    format: str = "fp32",
    criteria: Sequence[str] | None = None,
    trials: int | None = None,
    plan: str = "uniform",
    draw_seed: int | None = None,
    protection: Protection | None = None,
    images: int | None = None,
    data_folder: Path | None = None,
    workers: int = 1,
    report: Report = lambda name, done, total: None,  # noqa: ARG005
) -> Vulnerability:
    """Measure the vulnerability of a task's model on its validation data. See `vulnerability` for what is not here.

    Args:
        recipe: of the training, and of the model that a checkpoint is of; its seed also decides which faults are drawn.
        out: the run directory: ``model.pt`` if it is trained here, and what is counted.
        checkpoint: the model's ``state_dict``, alone or under the key ``state_dict`` or ``model``.
        parameters: as of `vulnerability`, and so are ``kinds``, ``format``, ``criteria``, ``trials``, ``plan`` and
            ``workers``.
        kinds: of faults.
        format: of the stored parameters.
        criteria: of failure.
        trials: how many faults to draw; None: all.
        plan: how to draw them.
        workers: processes.
        draw_seed: decides which faults are drawn; None: the recipe's seed does.
        protection: bits that no fault changes.
        images: how many examples; None: all. Of cluttered digits, as many as are asked for are made.
        data_folder: where the data set is, if not in the usual places.
        report: told of the training's steps and of the pairs.

    Raises:
        InvalidInput: as `vulnerability` does, most of it before a training; or if the checkpoint is not there, damaged,
            or of another model, or there are not so many examples.
    """
    if recipe.data in DATA_SETS:  # before a training that may take hours; else `load_data` says that it is not
        bare = without_memory(recipe.model, **DATA_SETS[recipe.data].sizes, width=recipe.width)
        names, effects = parameter_names(bare, parameters), effects_of(kinds, format_named(format))
        check_drawn({name: bare.get_parameter(name).shape for name in names}, effects, trials=trials, plan=plan)
        if criteria is not None:
            check_criteria(tuple(criteria), torch.empty(0))  # tasks have labels
    model, inputs, labels = task_examples(
        recipe, out, checkpoint=checkpoint, images=images, data_folder=data_folder, report=report
    )
    return vulnerability(
        model,
        inputs,
        labels,
        parameters=parameters,
        kinds=kinds,
        format=format,
        criteria=criteria,
        trials=trials,
        plan=plan,
        seed=recipe.seed if draw_seed is None else draw_seed,
        protection=protection,
        workers=workers,
        out=out / "counts",
        report=lambda done, total: report("faults x examples", done, total),
    )


def task_examples(
    recipe: Recipe,
    out: Path,
    *,
    checkpoint: Path | None = None,
    images: int | None = None,
    data_folder: Path | None = None,
    report: Report = lambda name, done, total: None,  # noqa: ARG005
) -> tuple[nn.Module, Tensor, Tensor]:
    """Give a task's model, its validation data as the model takes them, and their labels. See `measure_task`."""
    if images is not None and images < 1:
        raise InvalidInput(f"images={images} must be at least 1")
    data = load_data(recipe.data, folder=data_folder)
    held = len(data.validation_labels)
    is_more = images is not None and images > held
    if is_more and recipe.data != "cluttered_digits":
        raise InvalidInput(f"images={images} are more than the {held} of {data.name}; choose at most {held}")
    model = task_model(recipe, data, out, checkpoint=checkpoint, report=report)
    if is_more:
        assert images is not None
        data = cluttered_digits(validation_images=images)
    return model, data.normalised(data.validation_images[:images]), data.validation_labels[:images]


def task_model(
    recipe: Recipe,
    data: DataSet,
    out: Path,
    *,
    checkpoint: Path | None = None,
    report: Report = lambda name, done, total: None,  # noqa: ARG005
) -> nn.Module:
    """Give a task's model: a checkpoint's, or the one in a run directory, where it is trained if it is not there yet.

    Raises:
        InvalidInput: if the checkpoint is not there, damaged, or of another model.
    """
    return _loaded(recipe, data, checkpoint) if checkpoint is not None else _trained(recipe, data, out, report)


def _trained(recipe: Recipe, data: DataSet, out: Path, report: Report) -> nn.Module:
    path = out / "model.pt"
    if path.exists():
        return _loaded(recipe, data, path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as all trainings are, so that the model is the same on any number of processors
    try:
        training = Training(recipe, data)
        while training.step < recipe.steps:
            training.gradients()
            training.update()
            report("training", training.step, recipe.steps)
    finally:
        torch.set_num_threads(threads)
    with usable(out), replacing(path) as partial:
        torch.save(training.model.state_dict(), partial)
    return training.model


def _loaded(recipe: Recipe, data: DataSet, path: Path) -> nn.Module:
    model = build_model(recipe.model, **data.sizes, width=recipe.width)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        held = next((held[key] for key in ("state_dict", "model") if isinstance(held.get(key), dict)), held)
        model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in held.items()})
    except FileNotFoundError as error:
        raise InvalidInput(f"checkpoint={str(path)!r} is not there; leave it out to train one") from error
    except (OSError, EOFError, RuntimeError, AttributeError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise InvalidInput(
            f"checkpoint={str(path)!r} does not hold a {recipe.model} of width {recipe.width} for {recipe.data} "
            f"({type(error).__name__}); name another, or leave it out to train one"
        ) from error
    return model
