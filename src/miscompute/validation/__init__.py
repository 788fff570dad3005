"""Whether the error models are right: lowering and injection against cycle-accurate simulation and slow arrays.

Nothing here knows how a fault is lowered. `check_vectors` reads stimulus and faulty outputs of RTL simulations;
`check_array` draws layers and faults and asks `miscompute.reference`, which walks the array cycle by cycle. Both inject
the fault as a user does and count how often every bit agrees.
"""

from ._agreement import Agreement as Agreement
from ._agreement import summed_up as summed_up
from ._array import check_array as check_array
from ._vectors import check_vectors as check_vectors
