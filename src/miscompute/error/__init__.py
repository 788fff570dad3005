"""Errors: which elements of which operand of which pass a fault corrupts, and how.

A fault is in hardware; an error is in a tensor. `lower` derives the second from the first, by the rules of the array.
"""

from ._error import AnyError as AnyError
from ._error import Error as Error
from ._error import StoredError as StoredError
from ._error import SumError as SumError
from ._lower import TWIN_PASSES as TWIN_PASSES
from ._lower import lower as lower
from ._lower import with_passes_swapped as with_passes_swapped
from ._region import Range as Range
from ._region import Region as Region
