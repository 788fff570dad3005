"""Tests check the types and shapes that the package states, as tests/conftest.py arranges; users do not pay for it."""

from typing import Any

import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor

from miscompute import Flip, nvdla
from miscompute.tasks import build_model

WRONG: Any = "8"


@jaxtyped(typechecker=beartype)
def number() -> int:
    return WRONG  # type: ignore[no-any-return]


@jaxtyped(typechecker=beartype)
def shorter(of: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return of[1:]


def test_a_wrong_type_is_seen_in_functions_methods_and_values() -> None:
    with pytest.raises(BeartypeCallHintViolation):
        nvdla(rows=WRONG, cols=8)
    with pytest.raises(BeartypeCallHintViolation):
        nvdla(rows=8, cols=8).node(WRONG, 1)
    with pytest.raises(BeartypeCallHintViolation):
        Flip(bits=WRONG)
    with pytest.raises(BeartypeCallHintViolation):
        number()


def test_a_wrong_shape_is_seen() -> None:
    with pytest.raises(TypeCheckError, match="images"):
        build_model("resnet20", channels=1, classes=10, width=0.1)(torch.zeros(1, 32, 32))
    with pytest.raises(TypeCheckError, match="return value"):
        shorter(torch.zeros(3))


def test_unchecked_nothing_is_seen(unchecked: None) -> None:
    assert number() == WRONG
    assert len(shorter(torch.zeros(3))) == 2
