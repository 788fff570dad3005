"""Slow, obviously correct arrays: the independent judge of what is lowered and injected.

`miscompute.error` reasons about where a fault lands and `miscompute.injection` computes with what it says; both are
fast because they take every shortcut the rules allow. This package takes none. It walks the hardware's own loops, puts
each word into its register, changes the words that sit in a faulty one, and multiplies. It imports neither of the two,
so an agreement between them and it is evidence.
"""

from ._fp16_mac import BlockSum as BlockSum
from ._fp16_mac import fp16_mac as fp16_mac
from ._fp16_mac import misread_register as misread_register
from ._image import convolve_lines as convolve_lines
from ._layer import LayerResult as LayerResult
from ._layer import OperandReading as OperandReading
from ._layer import forward as forward
from ._layer import grad_input as grad_input
from ._layer import grad_weight as grad_weight
from ._layer import layer_result as layer_result
from ._nvdla import convolve as convolve
from ._simd import vector_product as vector_product
from ._systolic import output_stationary as output_stationary
from ._systolic import weight_stationary as weight_stationary
from ._words import CoreResult as CoreResult
from ._words import Reading as Reading
