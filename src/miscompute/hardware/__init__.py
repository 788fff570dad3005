"""Accelerator arrays as data: which tensor element sits in which register, and when.

A hardware fault is at a *place*. This package knows the geometry of an array (rows are input-channel lanes, columns are
cells, the output channels in flight), the order in which it walks a layer, and the swizzle that moves channels over the
lanes. It knows nothing of faults; `miscompute.error` puts the two together.
"""

from ._array import STAGES as STAGES
from ._array import Array as Array
from ._array import Conditions as Conditions
from ._array import Every as Every
from ._array import Mapping as Mapping
from ._array import Stage as Stage
from ._arrays import ARRAYS as ARRAYS
from ._arrays import array_named as array_named
from ._layer import OPERANDS as OPERANDS
from ._layer import PASSES as PASSES
from ._layer import TWIN_OPERANDS as TWIN_OPERANDS
from ._layer import TWIN_PASSES as TWIN_PASSES
from ._layer import Layer as Layer
from ._layer import Operand as Operand
from ._layer import Pass as Pass
from ._matrix_unit import MatrixUnit as MatrixUnit
from ._matrix_unit import matrix_unit as matrix_unit
from ._nvdla import Nvdla as Nvdla
from ._nvdla import nvdla as nvdla
from ._nvdla import nvdla_full as nvdla_full
from ._nvdla import nvdla_large as nvdla_large
from ._nvdla import nvdla_medium_512 as nvdla_medium_512
from ._nvdla import nvdla_medium_1024 as nvdla_medium_1024
from ._nvdla import nvdla_small as nvdla_small
from ._nvdla import nvdla_small_256 as nvdla_small_256
from ._schedule import Moment as Moment
from ._schedule import Schedule as Schedule
from ._schedule import product_at as product_at
from ._simd import Simd as Simd
from ._simd import simd as simd
from ._swizzle import SWIZZLES as SWIZZLES
from ._swizzle import NoSwizzle as NoSwizzle
from ._swizzle import RandomEachStep as RandomEachStep
from ._swizzle import RotateEachLayer as RotateEachLayer
from ._swizzle import RotateEachStep as RotateEachStep
from ._swizzle import RotateEachStripe as RotateEachStripe
from ._swizzle import Swizzle as Swizzle
from ._swizzle import swizzle_named as swizzle_named
from ._systolic import OutputStationary as OutputStationary
from ._systolic import WeightStationary as WeightStationary
from ._systolic import systolic as systolic
