"""Published error models: what comes out wrong, drawn from what was measured elsewhere; not where it comes from."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, final

import numpy as np

from .._invalid import InvalidInput
from ..fault import ZERO, Effect, Elements, Fault, Flip, Moved, RandomFlips, RandomWord, SetTo, Transient
from ..formats import FORMATS, Format
from ..hardware import Layer, Operand, Pass

_OUTPUTS = 16  # published, He et al.: as many outputs follow one another
_OPERANDS = 64  # published, He et al.: as many operands follow one another

NON_FINITE_SHARE = 0.0101
"""Of the corruptions of a GPU's matrix unit, those that are NaN or infinite (arXiv 2605.04213)."""

NULLIFIED_SHARE = 0.5
"""Of the corruptions of a GPU's matrix unit, those that are zeros: "about half" (arXiv 2605.04213)."""

FLIP_WEIGHTS = (0.39, *(0.61 / 7,) * 7)
"""How many bits an event inverts, 1 to 8. Published: one bit, in fewer than 40 % of events; our choice: all else."""


@final
@dataclass(frozen=True, kw_only=True)
class Execution:
    """One pass of one layer in one step, which a fault is drawn for.

    Args:
        layer: the layer. For an array that computes convolutions by im2col, as that array sees it (`Layer.as_matmul`).
        pass_: the computation.
        step: the optimizer step.
        format: number format of operands and results, which says what bits there are: the model's, or the array's.
    """

    layer: Layer
    pass_: Pass
    step: int
    format: Format = FORMATS["fp32"]

    @property
    def operands(self) -> tuple[Operand, Operand]:
        """The tensors it reads."""
        return _OPERANDS_OF[self.pass_]

    def elements(self, of: Operand | Literal["result"]) -> int:
        """Count the elements of an operand or of the result.

        Raises:
            InvalidInput: if the operand is not read.
        """
        if of != "result" and of not in self.operands:
            raise InvalidInput(
                f"pass_={self.pass_!r} of layer {self.layer.name!r} does not read its {of}; choose another pass"
            )
        return self.layer.words(of, self.pass_)


_OPERANDS_OF: Mapping[Pass, tuple[Operand, Operand]] = {
    "forward": ("weight", "input"),
    "grad_input": ("weight", "grad_output"),
    "grad_weight": ("input", "grad_output"),
}

ErrorModel = Callable[[Execution, np.random.Generator], Fault]
"""Draws a fault in an execution."""


def isca2023_operand_bit(execution: Execution, generator: np.random.Generator) -> Fault:
    """One random bit of one element of an operand is inverted; both operands' elements are equally likely.

    Source: He et al., ISCA 2023 (doi 10.1145/3579371.3589105).

    *Fidelity*: statistical. The effect is the source's; that places and bits are equally likely is our choice.
    """
    return _in_run(execution, generator, of=_operand(execution, generator), effect=_bit(execution, generator))


def isca2023_output_bit(execution: Execution, generator: np.random.Generator) -> Fault:
    """One random bit of one result is inverted.

    Source and *Fidelity*: as `isca2023_operand_bit`.
    """
    return _in_run(execution, generator, of="result", effect=_bit(execution, generator))


def isca2023_output_random(execution: Execution, generator: np.random.Generator) -> Fault:
    """One result is replaced by a random finite pattern of bits: of 32 in the source, of the result's format here.

    Source and *Fidelity*: as `isca2023_operand_bit`.
    """
    return _in_run(execution, generator, of="result", effect=_random_word(generator))


def isca2023_output_moved(execution: Execution, generator: np.random.Generator) -> Fault:
    """Results are replaced by values from other positions.

    Source: He et al., ISCA 2023 (doi 10.1145/3579371.3589105).

    *Fidelity*: statistical. Our choice: the positions are those of one run of 16 results, read cyclically at a random
    distance, so that 16 results are wrong and none of their values is lost.

    Raises:
        InvalidInput: if the pass has one result only, which has no other position.
    """
    run = min(_OUTPUTS, execution.elements("result"))
    if run == 1:
        raise InvalidInput(
            f"layer {execution.layer.name!r} has one result in {execution.pass_}, and no other position; "
            "choose another error model"
        )
    effect = Moved(by=int(generator.integers(1, run)))
    return _in_run(execution, generator, of="result", effect=effect, length=run)


def isca2023_output_zeroed(execution: Execution, generator: np.random.Generator) -> Fault:
    """One result is replaced by zero.

    Source and *Fidelity*: as `isca2023_operand_bit`.
    """
    return _in_run(execution, generator, of="result", effect=ZERO)


def isca2023_outputs_16(execution: Execution, generator: np.random.Generator) -> Fault:
    """Sixteen consecutive results are each replaced by a random finite pattern of bits, or all there are if fewer.

    Source: He et al., ISCA 2023 (doi 10.1145/3579371.3589105), for the number.

    *Fidelity*: statistical. Our choice: what the values become, that the run may begin anywhere, and that "consecutive"
    goes by PyTorch's order in memory.
    """
    return _in_run(execution, generator, of="result", effect=_random_word(generator), length=_OUTPUTS)


def isca2023_operands_64(execution: Execution, generator: np.random.Generator) -> Fault:
    """In each of 64 consecutive elements of an operand one random bit is inverted, or in all there are if fewer.

    Source and *Fidelity*: as `isca2023_outputs_16`.
    """
    effect = RandomFlips(seed=_seed(generator))
    return _in_run(execution, generator, of=_operand(execution, generator), effect=effect, length=_OPERANDS)


def isca2023_long_run(execution: Execution, generator: np.random.Generator) -> Fault:
    """Long contiguous runs of results are replaced by random finite patterns of bits, one a fault.

    Source: He et al., ISCA 2023 (doi 10.1145/3579371.3589105), for there being such runs.

    *Fidelity*: statistical. Our choice, besides that of `isca2023_outputs_16`: the run has from 64 results to all of
    them, every power of two as likely as the next; all, where there are fewer than 64.
    """
    size = execution.elements("result")
    shortest = min(64, size)
    length = round(math.exp(generator.uniform(math.log(shortest), math.log(size))))
    return _in_run(execution, generator, of="result", effect=_random_word(generator), length=length)


def fidelity_input_bit(execution: Execution, generator: np.random.Generator) -> Fault:
    """One random bit of one element of the input is inverted, for every result that is computed from it.

    Source: FIdelity, MICRO 2020, which names input, weight and neuron faults.

    *Fidelity*: statistical, with all of an element's reuse. The faults that FIdelity calls input16 and weight16, and
    those of control, are not here: `Elements` does not say which results read an element. Equal likelihoods of places
    and bits are our choice, and so are backward passes: the source is about inference.

    Raises:
        InvalidInput: if the pass does not read the input.
    """
    return _in_run(execution, generator, of="input", effect=_bit(execution, generator))


def fidelity_weight_bit(execution: Execution, generator: np.random.Generator) -> Fault:
    """One random bit of one element of the weight is inverted, for every result that is computed from it.

    Source and *Fidelity*: as `fidelity_input_bit`.

    Raises:
        InvalidInput: if the pass does not read the weight.
    """
    return _in_run(execution, generator, of="weight", effect=_bit(execution, generator))


def fidelity_neuron_bit(execution: Execution, generator: np.random.Generator) -> Fault:
    """One random bit of one result (a neuron, in the source's word) is inverted.

    Source and *Fidelity*: as `fidelity_input_bit`.
    """
    return _in_run(execution, generator, of="result", effect=_bit(execution, generator))


def gpu_nullification(execution: Execution, generator: np.random.Generator) -> Fault:
    """Consecutive results of a GPU's matrix unit are zero.

    Source: arXiv 2605.04213, gate-level stuck-at faults; its shares are known here from the abstract and from a secondary
    text, not from its tables.

    *Fidelity*: statistical, and of permanent faults, drawn here as transients. Our choice: 1 to 16 results in a row,
    each length as likely, in PyTorch's order of memory.
    """  # noqa: E501
    return _in_tile(execution, generator, ZERO)


def gpu_non_finite(execution: Execution, generator: np.random.Generator) -> Fault:
    """Consecutive results of a GPU's matrix unit are infinite.

    Source and *Fidelity*: as `gpu_nullification`. The source counts NaN and infinity together. Our choice: infinity, of
    either sign.

    Raises:
        InvalidInput: if the format has no infinity.
    """
    if not _has_infinity(execution.format):
        raise InvalidInput(f"format={execution.format.name} has no infinity; choose another error model")
    return _in_tile(execution, generator, SetTo(value=math.inf * generator.choice((-1.0, 1.0))))


def gpu_bit_flips(execution: Execution, generator: np.random.Generator) -> Fault:
    """Consecutive results of a GPU's matrix unit each have random bits inverted, one bit in 39 % of events.

    Source and *Fidelity*: as `gpu_nullification`. The source says fewer than 40 %. Our choice: 39 %, and 2 to 8 bits
    with equal shares of the rest (`FLIP_WEIGHTS`).
    """
    return _in_tile(execution, generator, RandomFlips(seed=_seed(generator), weights=FLIP_WEIGHTS))


def gpu_corruption(execution: Execution, generator: np.random.Generator) -> Fault:
    """Consecutive results of a GPU's matrix unit are zero (half the time), infinite (1.01 %) or have bits inverted.

    Source: arXiv 2605.04213; 1.01 % from its abstract, "about half" from its abstract or a secondary text.

    *Fidelity*: as `gpu_nullification`, `gpu_non_finite` and `gpu_bit_flips`. Our choice: that "about half" is
    `NULLIFIED_SHARE` and all that is left are flips. Where a format has no infinity, so are those.
    """
    draw = generator.random()
    if draw < NULLIFIED_SHARE:
        model = gpu_nullification
    elif draw < NULLIFIED_SHARE + NON_FINITE_SHARE and _has_infinity(execution.format):
        model = gpu_non_finite
    else:
        model = gpu_bit_flips
    return model(execution, generator)


ERROR_MODELS: Mapping[str, ErrorModel] = MappingProxyType(
    {
        "isca2023-operand-bit": isca2023_operand_bit,
        "isca2023-output-bit": isca2023_output_bit,
        "isca2023-output-random": isca2023_output_random,
        "isca2023-output-moved": isca2023_output_moved,
        "isca2023-output-zeroed": isca2023_output_zeroed,
        "isca2023-outputs-16": isca2023_outputs_16,
        "isca2023-operands-64": isca2023_operands_64,
        "isca2023-long-run": isca2023_long_run,
        "fidelity-input-bit": fidelity_input_bit,
        "fidelity-weight-bit": fidelity_weight_bit,
        "fidelity-neuron-bit": fidelity_neuron_bit,
        "gpu-nullification": gpu_nullification,
        "gpu-non-finite": gpu_non_finite,
        "gpu-bit-flips": gpu_bit_flips,
        "gpu-corruption": gpu_corruption,
    }
)
"""Every published error model by name: from an execution and a generator, a fault.

All that is random is drawn then: the fault alone, or its string, replays the injection.
"""


def error_model_named(name: str) -> ErrorModel:
    """Look an error model up by name.

    >>> execution = Execution(layer=Layer(name="fc", n=4, ic=5, oc=10), pass_="forward", step=3)
    >>> str(error_model_named("isca2023-outputs-16")(execution, np.random.default_rng(1)))
    'result-elements[12,16] random-finite seed 2032329983 transient step 3 pass forward layer fc'
    """
    if name not in ERROR_MODELS:
        raise InvalidInput(f"error model={name!r} is unknown; choose one of {', '.join(ERROR_MODELS)}")
    return ERROR_MODELS[name]


def _has_infinity(format: Format) -> bool:
    return format.is_float and format.has_infinities


def _bit(execution: Execution, generator: np.random.Generator) -> Flip:
    return Flip(bits=(int(generator.integers(execution.format.bits)),))


def _random_word(generator: np.random.Generator) -> RandomWord:
    return RandomWord(seed=_seed(generator), finite=True)


def _seed(generator: np.random.Generator) -> int:
    return int(generator.integers(1 << 32))


def _in_tile(execution: Execution, generator: np.random.Generator, effect: Effect) -> Fault:
    length = int(generator.integers(1, _OUTPUTS + 1))
    return _in_run(execution, generator, of="result", effect=effect, length=length)


def _in_run(
    execution: Execution,
    generator: np.random.Generator,
    *,
    of: Operand | Literal["result"],
    effect: Effect,
    length: int = 1,
) -> Fault:
    """Give a fault in a run of elements that lies anywhere in a tensor; in all of it, if it is shorter than the run."""
    size = execution.elements(of)
    length = min(length, size)
    return Fault(
        site=Elements(of=of, first=int(generator.integers(size - length + 1)), length=length),
        effect=effect,
        timing=Transient(step=execution.step, pass_=execution.pass_, layer=execution.layer.name),
    )


def _operand(execution: Execution, generator: np.random.Generator) -> Operand:
    """Draw one of the operands of a pass, each of their elements being as likely."""
    first, second = execution.operands
    sizes = execution.elements(first), execution.elements(second)
    return first if generator.integers(sum(sizes)) < sizes[0] else second
