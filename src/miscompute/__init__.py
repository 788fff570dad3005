"""miscompute: what a hardware fault in an AI accelerator does to training and to the trained model.

Hardware has *faults*; faults cause *errors*; errors are injected into *experiments*; experiments have *outcomes*. Each
noun is a package, and each package imports only from those before it. What describes hardware, faults and errors
imports without PyTorch; the rest is loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ._invalid import InvalidInput as InvalidInput
from .error import Error as Error
from .error import Range as Range
from .error import Region as Region
from .error import lower as lower
from .fault import PERMANENT as PERMANENT
from .fault import ActivationRegister as ActivationRegister
from .fault import Fault as Fault
from .fault import Flip as Flip
from .fault import Intermittent as Intermittent
from .fault import StuckAt as StuckAt
from .fault import Transient as Transient
from .fault import WeightBus as WeightBus
from .fault import WeightRegister as WeightRegister
from .fault import parse_fault as parse_fault
from .hardware import Layer as Layer
from .hardware import Nvdla as Nvdla
from .hardware import matrix_unit as matrix_unit
from .hardware import nvdla as nvdla
from .hardware import nvdla_full as nvdla_full
from .hardware import nvdla_large as nvdla_large
from .hardware import nvdla_medium_512 as nvdla_medium_512
from .hardware import nvdla_medium_1024 as nvdla_medium_1024
from .hardware import nvdla_small as nvdla_small
from .hardware import nvdla_small_256 as nvdla_small_256

if TYPE_CHECKING:
    from .campaigns import campaign as campaign
    from .injection import Injection as Injection
    from .injection import inject as inject
    from .injection import trace as trace
    from .pvf import Vulnerability as Vulnerability
    from .pvf import vulnerability as vulnerability

_LAZY = {
    "campaign": "campaigns",
    "Injection": "injection",
    "inject": "injection",
    "trace": "injection",
    "Vulnerability": "pvf",
    "vulnerability": "pvf",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
