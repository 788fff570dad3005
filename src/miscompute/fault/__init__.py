"""Hardware faults: a site (where), an effect (what happens to the word there) and a timing (when).

A fault is the cause in hardware, whatever it then reaches. It is a value: compared by its content, spelled as a string
and parsed back.
"""

from ._effect import EFFECTS as EFFECTS
from ._effect import Effect as Effect
from ._effect import Flip as Flip
from ._effect import StuckAt as StuckAt
from ._fault import Fault as Fault
from ._grammar import parse_fault as parse_fault
from ._site import SITES as SITES
from ._site import ActivationRegister as ActivationRegister
from ._site import Exposure as Exposure
from ._site import Site as Site
from ._site import WeightBus as WeightBus
from ._site import WeightRegister as WeightRegister
from ._timing import PERMANENT as PERMANENT
from ._timing import TIMINGS as TIMINGS
from ._timing import Intermittent as Intermittent
from ._timing import Permanent as Permanent
from ._timing import Timing as Timing
from ._timing import Transient as Transient
