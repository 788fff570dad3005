"""The catalogue of sites."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from ._operand_sites import ActivationRegister, OperandValid, WeightBus, WeightRegister
from ._site import Site
from ._stored_sites import Elements, Memory
from ._sum_sites import Accumulator, AdderNode, CellOutput, FinalOutput, Product


class Spelling(NamedTuple):
    """How a fault string spells a site: ``word[index,...]``, the indices being the named fields of the site.

    The last ``optional`` of them may be left out. All are numbers but ``name`` and ``state``.
    """

    build: Callable[..., Site]
    indices: tuple[str, ...]
    optional: int = 0


SITES: Mapping[str, Spelling] = MappingProxyType(
    {
        "weight": Spelling(WeightRegister, ("row", "col")),
        "weight-shadow": Spelling(partial(WeightRegister, stage="shadow"), ("row", "col")),
        "weight-bus": Spelling(WeightBus, ("row",)),
        "weight-bus-half": Spelling(partial(WeightBus, reach="half"), ("row", "col")),
        "weight-bus-before-detector": Spelling(partial(WeightBus, before_zero_detector=True), ("row",)),
        "activation": Spelling(ActivationRegister, ("row", "col")),
        "activation-half": Spelling(partial(ActivationRegister, reach="half"), ("row", "col")),
        "activation-all": Spelling(partial(ActivationRegister, reach="all"), ("row",)),
        "valid": Spelling(OperandValid, ("row", "col")),
        "product": Spelling(Product, ("row", "col")),
        "adder": Spelling(AdderNode, ("row", "col", "level"), optional=1),
        "cell": Spelling(CellOutput, ("col",)),
        "accumulator": Spelling(Accumulator, ("col",)),
        "accumulator-pe": Spelling(Accumulator, ("row", "col")),
        "accumulator-entry": Spelling(Accumulator, ("address", "col")),
        "output": Spelling(FinalOutput, ("col",)),
        "weight-memory": Spelling(partial(Memory, store="weight"), ("name", "index", "length"), optional=1),
        "gradient-memory": Spelling(partial(Memory, store="gradient"), ("name", "index", "length"), optional=1),
        "optimizer-memory": Spelling(
            partial(Memory, store="optimizer"), ("name", "state", "index", "length"), optional=1
        ),
        "statistics-memory": Spelling(partial(Memory, store="statistics"), ("name", "index", "length"), optional=1),
        "activation-memory": Spelling(partial(Memory, store="activation"), ("name", "index", "length"), optional=1),
        "weight-elements": Spelling(partial(Elements, of="weight"), ("first", "length")),
        "input-elements": Spelling(partial(Elements, of="input"), ("first", "length")),
        "grad-output-elements": Spelling(partial(Elements, of="grad_output"), ("first", "length")),
        "result-elements": Spelling(partial(Elements, of="result"), ("first", "length")),
    }
)
"""Every site, by its word in fault strings."""
