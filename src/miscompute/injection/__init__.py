"""Injection: a model trains or infers, unmodified, as it would on the faulty array.

The one place that touches PyTorch's execution. Convolutions and linear layers are computed with the operands that the
array would read, in each of their three passes; stored tensors are never changed, and on exit everything is as before.
"""

from ._inject import Injection as Injection
from ._inject import inject as inject
from ._inject import trace as trace
from ._log import Log as Log
from ._log import LogRow as LogRow
from ._memory import states_of as states_of
