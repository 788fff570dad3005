"""The training loop: one step is gradients, then an update."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .._invalid import InvalidInput
from ._data import DataSet, crop_and_mirror
from ._models import build_model, check_memory, check_reads, without_memory
from ._random import generator
from ._recipe import OPTIMIZERS, SCHEDULES, Recipe

_ORDER, _AUGMENTATION, _MODEL = range(3)


_COPIES = {"adam": 4, "adamw": 4, "sgd": 3}  # of the parameters: themselves, gradients, the optimizer's own


def check_fits(recipe: Recipe, data: DataSet) -> None:
    """Raise `InvalidInput` if a recipe cannot be carried out on a data set.

    The model may read something else, a step may want more examples than there are, or the parameters, their gradients
    and what the optimizer keeps may need more memory than the machine has.
    """
    check_reads(recipe.model, data.reads, data.name)
    if recipe.batch_size > len(data.train_labels):
        examples = "images" if data.reads == "images" else "windows"
        raise InvalidInput(
            f"batch_size={recipe.batch_size} is more than the {len(data.train_labels)} training {examples} of "
            f"{data.name}; choose a smaller one"
        )
    if recipe.validation_examples is not None and recipe.validation_examples > len(data.validation_labels):
        raise InvalidInput(
            f"validation_examples={recipe.validation_examples} is more than the {len(data.validation_labels)} of "
            f"{data.name}; leave it out for all"
        )
    model = without_memory(recipe.model, **data.sizes, width=recipe.width)
    check_memory(model, width=recipe.width, copies=_COPIES[recipe.optimizer])


class Training:
    """A training under way: model, optimizer and the number of completed steps.

    Everything random is addressed by seed and step, so a training continued from `state` is the same to the last bit.

    >>> from miscompute.tasks import load_data, recipe_for
    >>> data = load_data("cluttered_digits")
    >>> training = Training(recipe_for("cluttered_digits", steps=3), data)
    >>> while training.step < training.recipe.steps:
    ...     loss, correct = training.gradients()
    ...     training.update()
    >>> round(float(accuracy(training.model, data)), 1)
    0.1
    """

    def __init__(self, recipe: Recipe, data: DataSet) -> None:
        check_fits(recipe, data)
        self.recipe = recipe
        self.data = data.validated_on(recipe.validation_examples)
        self.model = build_model(recipe.model, **data.sizes, width=recipe.width, seed=recipe.seed)
        self.optimizer = OPTIMIZERS[recipe.optimizer](self.model.parameters(), recipe)
        self.step = 0
        self._order: tuple[int, Tensor] | None = None

    def batch(self) -> tuple[Tensor, Tensor]:
        """Give the current step's examples, as the model takes them, and labels.

        Images (n, channels, 32, 32), normalised, and labels (n,); or tokens (n, context) and those that follow them.
        """
        size, seed = self.recipe.batch_size, self.recipe.seed
        per_epoch = len(self.data.train_labels) // size
        epoch, place = divmod(self.step, per_epoch)
        if self._order is None or self._order[0] != epoch:
            order = torch.randperm(len(self.data.train_labels), generator=generator(seed, _ORDER, epoch))
            self._order = epoch, order
        chosen = self._order[1][place * size : (place + 1) * size]
        examples = self.data.normalised(self.data.train_images[chosen])
        if self.data.augment:
            examples = crop_and_mirror(examples, generator(seed, _AUGMENTATION, self.step))
        return examples, self.data.train_labels[chosen]

    def gradients(self) -> tuple[Tensor, int]:
        """Compute the gradients of the current step's batch; return the mean loss and how many labels were right."""
        examples, labels = self.batch()
        self.model.train()
        self.optimizer.zero_grad()
        with torch.random.fork_rng():
            # `torch.manual_seed` prepares other devices as well, which takes as long as the update of a small model.
            torch.default_generator.manual_seed(generator(self.recipe.seed, _MODEL, self.step).initial_seed())
            return backpropagate(self.model, examples, labels)

    def update(self) -> None:
        """Let the optimizer make the step."""
        factor = SCHEDULES[self.recipe.schedule](self.step / self.recipe.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * factor
        self.optimizer.step()
        self.step += 1

    def state(self) -> dict[str, Any]:
        """Give what a checkpoint must hold; loadable with ``weights_only=True``."""
        return {"step": self.step, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what `state` gave."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def backpropagate(model: nn.Module, examples: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    """Add the gradients of the mean loss to the model's; return that loss and how many labels were right."""
    scores = model(examples)  # -> (n, classes) or (n, context, classes)
    loss = F.cross_entropy(scores.flatten(0, -2), labels.flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), int((scores.argmax(-1) == labels).sum())


def accuracy(model: nn.Module, data: DataSet, *, batch_size: int = 500) -> float:
    """Give the part of the validation labels that the model predicts, on the machine it runs on.

    The part of the images that are classified right, or of the tokens that are.
    """
    was_training = model.training
    model.eval()
    with torch.no_grad():
        right = 0
        for first in range(0, len(data.validation_labels), batch_size):
            scores = model(data.normalised(data.validation_images[first : first + batch_size]))
            labels = data.validation_labels[first : first + batch_size]
            right += int((scores.argmax(-1) == labels).sum())
    model.train(was_training)
    return right / data.validation_labels.numel()
