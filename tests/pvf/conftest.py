"""Small models and examples, and random faults of them."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from miscompute._invalid import InvalidInput
from miscompute.formats import Format
from miscompute.pvf import Faults, effects_of
from miscompute.tasks import IMAGENET_MEAN, IMAGENET_STD, DataSet, build_model, load_data, trained_resnet20

KINDS = ("flip", "stuck-at-0", "stuck-at-1", "burst:3", "random-bits:2")


def random_faults(model: nn.Module, format: Format, cases: int, *, seed: int) -> list[Faults]:
    """Draw faults: the parameter first, so that small ones are met as well."""
    draw, effects = random.Random(seed), effects_of(KINDS, format)
    names = [name for name, _ in model.named_parameters()]
    found = []
    for _ in range(cases):
        name = draw.choice(names)
        element = draw.randrange(model.get_parameter(name).numel())
        found.append(Faults(parameter=name, elements=(element,), effects=(draw.choice(effects),)))
    return found


Subject = tuple[nn.Module, Tensor, Tensor]


@pytest.fixture(scope="session")
def subject(digits: DataSet) -> Callable[[str], Subject]:
    """Build a model by name, with examples and labels for it; weights are drawn, but those of resnet20."""

    def build(name: str) -> Subject:
        torch.manual_seed(0)
        if name == "gpt":
            model = build_model("gpt", classes=65, context=64, width=0.25)
            tokens = torch.randint(0, 65, (12, 17))
            return model.eval(), tokens[:, :-1], tokens[:, 1:]
        if name == "resnet20":
            try:
                data = replace(load_data("cifar10"), mean=IMAGENET_MEAN, std=IMAGENET_STD)
                model = trained_resnet20()
            except InvalidInput as error:
                pytest.skip(str(error))
            return model, data.normalised(data.validation_images[:20]), data.validation_labels[:20]
        images = 40 if name == "resnet18" else 150
        model = build_model(name, classes=10, channels=1, width=0.1 if name == "resnet18" else 1.0)
        return model.eval(), digits.normalised(digits.validation_images[:images]), digits.validation_labels[:images]

    return build
