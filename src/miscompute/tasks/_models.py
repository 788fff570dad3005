"""The catalogue of models, and the smaller ones for 32 x 32 images."""

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .._invalid import InvalidInput
from ..formats import FORMATS
from ._data import Reads
from ._gpt import gpt
from ._resnet import resnet18, resnet18_nobn, resnet20
from ._width import scaled

MODEL_FORMAT = FORMATS["fp32"]
"""The number format that all models compute in, unless an array has its own."""


def alexnet(*, channels: int = 3, classes: int = 10, width: float = 1.0) -> nn.Module:
    """Build AlexNet in its CIFAR form: five convolutions and one linear layer, for 32 x 32 images.

    ``width`` scales all hidden channels; 1 gives 64, 192, 384, 256, 256 and 2.3 million parameters. The first
    convolution is 5 x 5 with stride 2, the pools are 2 x 2, and weights start as in He et al. (2015), eq. 10.

    Source: Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", 2012;
    the CIFAR form keeps its five convolutions and drops the two wide linear layers.
    """
    a, b, c, d, e = scaled(width, 64, 192, 384, 256, 256)
    return _initialised(
        conv1=nn.Conv2d(channels, a, 5, stride=2, padding=2),  # (n, channels, 32, 32) -> (n, a, 16, 16)
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),  # -> (n, a, 8, 8)
        conv2=nn.Conv2d(a, b, 3, padding=1),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),  # -> (n, b, 4, 4)
        conv3=nn.Conv2d(b, c, 3, padding=1),
        relu3=nn.ReLU(),
        conv4=nn.Conv2d(c, d, 3, padding=1),
        relu4=nn.ReLU(),
        conv5=nn.Conv2d(d, e, 3, padding=1),
        relu5=nn.ReLU(),
        pool5=nn.MaxPool2d(2),  # -> (n, e, 2, 2)
        flatten=nn.Flatten(),
        fc=nn.Linear(4 * e, classes),
    )


def lenet5(*, channels: int = 1, classes: int = 10, width: float = 1.0) -> nn.Module:
    """Build LeNet-5 with ReLU and max-pooling: two 5 x 5 convolutions, three linear layers, for 32 x 32 images.

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998, fig. 2.
    """
    a, b, c, d = scaled(width, 6, 16, 120, 84)
    return _initialised(
        conv1=nn.Conv2d(channels, a, 5),  # (n, channels, 32, 32) -> (n, a, 28, 28)
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),  # -> (n, a, 14, 14)
        conv2=nn.Conv2d(a, b, 5),  # -> (n, b, 10, 10)
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),  # -> (n, b, 5, 5)
        flatten=nn.Flatten(),
        fc1=nn.Linear(25 * b, c),
        relu3=nn.ReLU(),
        fc2=nn.Linear(c, d),
        relu4=nn.ReLU(),
        fc3=nn.Linear(d, classes),
    )


def mlp(*, channels: int = 1, classes: int = 10, width: float = 1.0) -> nn.Module:
    """Build a multi-layer perceptron: two hidden layers, of 300 and 100 units, with ReLU, for 32 x 32 images.

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998, section
    III.C.4, for whose 28 x 28 images it has fewer inputs.
    """
    a, b = scaled(width, 300, 100)
    return _initialised(
        flatten=nn.Flatten(),  # (n, channels, 32, 32) -> (n, channels * 1024)
        fc1=nn.Linear(channels * 1024, a),
        relu1=nn.ReLU(),
        fc2=nn.Linear(a, b),
        relu2=nn.ReLU(),
        fc3=nn.Linear(b, classes),
    )


def _initialised(**modules: nn.Module) -> nn.Module:
    """Chain modules, their weights drawn as in He et al. (2015), eq. 10, the last layer's with a gain of 1."""
    layers = [module for module in modules.values() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu" if layer is not layers[-1] else "linear")
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    return nn.Sequential(OrderedDict(modules))


class Model(NamedTuple):
    """How a model is built: from channels, classes and width for images, from context, classes and width for tokens."""

    build: Callable[..., nn.Module]
    reads: Reads = "images"


MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "alexnet": Model(alexnet),
        "lenet5": Model(lenet5),
        "resnet18": Model(resnet18),
        "resnet18_nobn": Model(resnet18_nobn),
        "resnet20": Model(resnet20),
        "mlp": Model(mlp),
        "gpt": Model(gpt, reads="tokens"),
    }
)
"""Every model, by the word used in specs and on the command line."""


def build_model(
    name: str,
    *,
    classes: int,
    channels: int | None = None,
    context: int | None = None,
    width: float = 1.0,
    seed: int = 0,
) -> nn.Module:
    """Build a model by name with weights drawn from a seed; PyTorch's own generators stay as they are.

    Args:
        name: a key of `MODELS`.
        classes: how many classes or tokens there are.
        channels: of the images; for models that read images.
        context: how many tokens a window has; for models that read tokens.
        width: scales the hidden channels.
        seed: decides the weights.

    Raises:
        InvalidInput: if there is no such model, it reads something else, or its parameters do not fit into memory.
    """
    if name not in MODELS:
        raise InvalidInput(f"model={name!r} is unknown; choose one of {', '.join(MODELS)}")
    if not width > 0:
        raise InvalidInput(f"width={width} must be greater than 0")
    build, reads = MODELS[name]
    size = {"channels": channels} if reads == "images" else {"context": context}
    if None in size.values() or (channels is None) == (context is None):
        raise InvalidInput(f"model={name!r} reads {reads}: give {next(iter(size))}, and nothing else about the data")
    check_memory(without_memory(name, **size, classes=classes, width=width), width=width, copies=1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(**size, classes=classes, width=width)


class _Undrawn(TorchFunctionMode):
    """Leaves weights undrawn: for normal numbers without memory PyTorch loads its compiler, which takes seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.__name__.endswith("normal_"):
            return next(iter((*args, *(kwargs or {}).values())))
        return func(*args, **(kwargs or {}))


def without_memory(name: str, **sizes: Any) -> nn.Module:
    """Build a model of the catalogue on the meta device: its parameters have sizes, and no values."""
    with torch.device("meta"), _Undrawn():
        return MODELS[name].build(**sizes)


def check_reads(model: str, reads: Reads, data: str) -> None:
    """Raise `InvalidInput` if a model cannot take what a data set has."""
    if MODELS[model].reads != reads:
        able = ", ".join(name for name, row in MODELS.items() if row.reads == reads)
        raise InvalidInput(
            f"model={model!r} reads {MODELS[model].reads}, but data={data} is {reads}; choose one of {able}"
        )


def check_memory(model: nn.Module, *, width: float, copies: int) -> None:
    """Raise `InvalidInput` if this machine has not the memory for so many copies of a model's parameters."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    needed, present = 4 * copies * parameters, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present:
        raise InvalidInput(
            f"width={width} makes {parameters:,} parameters, which take {needed / 2**30:,.0f} GiB of memory; "
            f"this machine has {present / 2**30:.0f}; choose a smaller one"
        )
