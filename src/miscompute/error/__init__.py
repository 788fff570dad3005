"""Errors: which elements of which operand of which pass a fault corrupts, and how.

A fault is in hardware; an error is in a tensor. `lower` derives the second from the first, by the rules of the array.
`ERROR_MODELS` are published ones, which are drawn instead.
"""

from ._error import AnyError as AnyError
from ._error import Error as Error
from ._error import StoredError as StoredError
from ._error import SumError as SumError
from ._lower import in_twin as in_twin
from ._lower import lower as lower
from ._published import ERROR_MODELS as ERROR_MODELS
from ._published import FLIP_WEIGHTS as FLIP_WEIGHTS
from ._published import NON_FINITE_SHARE as NON_FINITE_SHARE
from ._published import NULLIFIED_SHARE as NULLIFIED_SHARE
from ._published import ErrorModel as ErrorModel
from ._published import Execution as Execution
from ._published import error_model_named as error_model_named
from ._published import fidelity_input_bit as fidelity_input_bit
from ._published import fidelity_neuron_bit as fidelity_neuron_bit
from ._published import fidelity_weight_bit as fidelity_weight_bit
from ._published import gpu_bit_flips as gpu_bit_flips
from ._published import gpu_corruption as gpu_corruption
from ._published import gpu_non_finite as gpu_non_finite
from ._published import gpu_nullification as gpu_nullification
from ._published import isca2023_long_run as isca2023_long_run
from ._published import isca2023_operand_bit as isca2023_operand_bit
from ._published import isca2023_operands_64 as isca2023_operands_64
from ._published import isca2023_output_bit as isca2023_output_bit
from ._published import isca2023_output_moved as isca2023_output_moved
from ._published import isca2023_output_random as isca2023_output_random
from ._published import isca2023_output_zeroed as isca2023_output_zeroed
from ._published import isca2023_outputs_16 as isca2023_outputs_16
from ._region import Range as Range
from ._region import Region as Region
