"""Hardware faults: a site (where), an effect (what happens to the word there) and a timing (when).

A fault is the cause in hardware, whatever it then reaches. It is a value: compared by its content, spelled as a string
and parsed back. A `FaultSpace` is a population of them, spelled by strings with choices.
"""

from ._effect import EFFECTS as EFFECTS
from ._effect import WORD_EFFECTS as WORD_EFFECTS
from ._effect import ZERO as ZERO
from ._effect import BitOperation as BitOperation
from ._effect import Effect as Effect
from ._effect import Flip as Flip
from ._effect import Moved as Moved
from ._effect import ProductTable as ProductTable
from ._effect import RandomFlips as RandomFlips
from ._effect import RandomWord as RandomWord
from ._effect import SetTo as SetTo
from ._effect import StuckAt as StuckAt
from ._effect import When as When
from ._effect import burst as burst
from ._exposure import STORES as STORES
from ._exposure import AnyExposure as AnyExposure
from ._exposure import ElementExposure as ElementExposure
from ._exposure import Exposure as Exposure
from ._exposure import MemoryExposure as MemoryExposure
from ._exposure import Store as Store
from ._exposure import SumExposure as SumExposure
from ._fault import Fault as Fault
from ._grammar import parse_fault as parse_fault
from ._operand_sites import ActivationRegister as ActivationRegister
from ._operand_sites import OperandValid as OperandValid
from ._operand_sites import WeightBus as WeightBus
from ._operand_sites import WeightRegister as WeightRegister
from ._pattern import Extent as Extent
from ._site import Site as Site
from ._sites import SITES as SITES
from ._space import FaultSpace as FaultSpace
from ._space import Stratum as Stratum
from ._stored_sites import Elements as Elements
from ._stored_sites import Memory as Memory
from ._sum_sites import Accumulator as Accumulator
from ._sum_sites import AdderNode as AdderNode
from ._sum_sites import CellOutput as CellOutput
from ._sum_sites import FinalOutput as FinalOutput
from ._sum_sites import Product as Product
from ._timing import PERMANENT as PERMANENT
from ._timing import TIMINGS as TIMINGS
from ._timing import Arrivals as Arrivals
from ._timing import Bursts as Bursts
from ._timing import CycleBursts as CycleBursts
from ._timing import DutyCycle as DutyCycle
from ._timing import Intermittent as Intermittent
from ._timing import Permanent as Permanent
from ._timing import Timing as Timing
from ._timing import Transient as Transient
