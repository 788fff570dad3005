"""Residual networks for 32 x 32 images."""

import pickle
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .._invalid import InvalidInput
from ._data import look_for, named_folder
from ._width import scaled


@final
class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al., 2015, fig. 5, left).

    Where size or channels change, the shortcut is a 1 x 1 convolution (``projects``; the paper's option B), or else
    every second pixel with zeros for the channels that are new (option A). Without ``normalises``, convolutions have
    biases in place of batch normalisation.
    """

    def __init__(self, ic: int, oc: int, stride: int, *, projects: bool, normalises: bool) -> None:
        super().__init__()
        self.conv1 = _convolution(ic, oc, 3, stride, normalises=normalises)
        self.bn1 = _normalisation(oc, normalises=normalises)
        self.conv2 = _convolution(oc, oc, 3, 1, normalises=normalises)
        self.bn2 = _normalisation(oc, normalises=normalises)
        self.shortcut = nn.Sequential()
        if stride != 1 or ic != oc:
            self.shortcut = (
                nn.Sequential(
                    _convolution(ic, oc, 1, stride, normalises=normalises),
                    _normalisation(oc, normalises=normalises),
                )
                if projects
                else nn.Sequential(_PaddedShortcut(oc - ic, stride))
            )

    def forward(self, x: Float[Tensor, "n ic h w"]) -> Float[Tensor, "n oc oh ow"]:
        """Compute the block's output."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.shortcut(x))


@final
class _PaddedShortcut(nn.Module):
    def __init__(self, new: int, stride: int) -> None:
        super().__init__()
        self.new, self.stride = new, stride

    def forward(self, x: Float[Tensor, "n ic h w"]) -> Float[Tensor, "n oc oh ow"]:
        before = self.new // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new - before))


def _convolution(ic: int, oc: int, kernel: int, stride: int, *, normalises: bool) -> nn.Conv2d:
    return nn.Conv2d(ic, oc, kernel, stride=stride, padding=kernel // 2, bias=not normalises)


def _normalisation(channels: int, *, normalises: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if normalises else nn.Identity()


@final
class ResNet(nn.Module):
    """A 3 x 3 convolution, stages of blocks, the mean over all pixels, a linear layer.

    ``hidden`` are the stages' channels, ``blocks`` how many blocks each has; stages but the first halve the size.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        hidden: tuple[int, ...],
        blocks: int,
        projects: bool,
        normalises: bool,
    ) -> None:
        super().__init__()
        self.conv1 = _convolution(channels, hidden[0], 3, 1, normalises=normalises)
        self.bn1 = _normalisation(hidden[0], normalises=normalises)
        self.stages = len(hidden)
        ic = hidden[0]
        for stage, oc in enumerate(hidden):
            row = []
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                row.append(BasicBlock(ic, oc, stride, projects=projects, normalises=normalises))
                ic = oc
            self.add_module(f"layer{stage + 1}", nn.Sequential(*row))
        self.linear = nn.Linear(ic, classes)
        self._initialise(normalises=normalises)

    def _initialise(self, *, normalises: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="linear")
        nn.init.zeros_(self.linear.bias)
        if normalises:
            return
        blocks = [module for module in self.modules() if isinstance(module, BasicBlock)]
        for block in blocks:
            with torch.no_grad():
                block.conv1.weight *= len(blocks) ** -0.5
            nn.init.zeros_(block.conv2.weight)

    def forward(self, images: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n classes"]:
        """Compute the scores."""
        x = F.relu(self.bn1(self.conv1(images)))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        scores: Tensor = self.linear(x.mean((2, 3)))
        return scores


def resnet18(*, channels: int = 3, classes: int = 10, width: float = 1.0) -> nn.Module:
    """Build ResNet-18 in its CIFAR form: a 3 x 3 first convolution without pooling, four stages of two blocks.

    ``width`` scales the stages' channels; 1 gives 64, 128, 256, 512 and 11.17 million parameters. Shortcuts are
    projections.

    Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015, table 1; its CIFAR form is the
    usual one, as in K. Liu's pytorch-cifar.
    """
    hidden = scaled(width, 64, 128, 256, 512)
    return ResNet(channels=channels, classes=classes, hidden=hidden, blocks=2, projects=True, normalises=True)


def resnet18_nobn(*, channels: int = 3, classes: int = 10, width: float = 1.0) -> nn.Module:
    """Build `resnet18` without batch normalisation: convolutions have biases instead.

    It starts with each block's second convolution at zero and its first scaled by the root of the number of blocks, so
    that it trains without: Zhang, Dauphin, Ma, "Fixup initialization", 2019, rules 1 and 2 (the last layer apart, which
    starts as in the other models).
    """
    hidden = scaled(width, 64, 128, 256, 512)
    return ResNet(channels=channels, classes=classes, hidden=hidden, blocks=2, projects=True, normalises=False)


def resnet20(*, channels: int = 3, classes: int = 10, width: float = 1.0) -> nn.Module:
    """Build ResNet-20, made for CIFAR-10: three stages of three blocks, with 16, 32 and 64 channels.

    0.27 million parameters. Shortcuts have none: option A. `trained_resnet20` gives it trained.

    Source: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015, section 4.2 and table 6.
    """
    hidden = scaled(width, 16, 32, 64)
    return ResNet(channels=channels, classes=classes, hidden=hidden, blocks=3, projects=False, normalises=True)


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What `trained_resnet20` wants its images normalised by: ``replace(data, mean=IMAGENET_MEAN, std=IMAGENET_STD)``."""

_TRAINED = "resnet_cifar10/resnet20.th"
_TRAINED_URL = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/resnet20-12fca82f.th"


def trained_resnet20(folder: Path | None = None) -> nn.Module:
    """Load a ResNet-20 that was trained on CIFAR-10: right on 91.73 % of its test images.

    It takes images normalised by `IMAGENET_MEAN` and `IMAGENET_STD`. The weights are looked for as
    ``resnet_cifar10/resnet20.th`` where `cifar10` looks.

    Source: Y. Idelbayev, pytorch_resnet_cifar10, 2018 (BSD licence, two clauses). Nothing of it is stored here.

    Raises:
        InvalidInput: if the weights are not found, or are not of a ResNet-20.
    """
    found = look_for(_TRAINED, folder=folder)
    if found is None:
        named = named_folder(folder)
        where = f"data folder {str(named)!r} does not hold {_TRAINED}" if named else f"{_TRAINED} was not found"
        raise InvalidInput(f"{where}; download {_TRAINED_URL} into a folder under that name, and name the folder")
    model = resnet20()
    try:
        state = torch.load(found, map_location="cpu", weights_only=True)["state_dict"]
        model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise InvalidInput(
            f"data file {str(found)!r} does not hold a ResNet-20 ({type(error).__name__}); remove it or name another"
        ) from error
    return model.eval()
