"""PVF: how likely a fault in a stored parameter makes an inference wrong, counted exactly.

The parameter vulnerability factor (arXiv 2405.01741) is the probability that corrupting a parameter gives a wrong
output. The usual tools flip one bit, run the network on all examples, compare and flip it back, so they sample a few
thousand of the millions of faults that there are. Here a fault costs what it changes: one channel, on the examples
where it could matter, and there is a proof for the others. The counts are those of running everything.
"""

from ._advice import UNITS as UNITS
from ._advice import Advice as Advice
from ._advice import Step as Step
from ._advice import advise as advise
from ._advice import units_for as units_for
from ._bit_errors import BitErrors as BitErrors
from ._bit_errors import bit_errors as bit_errors
from ._brute import brute_force as brute_force
from ._criteria import CRITERIA as CRITERIA
from ._criteria import Limits as Limits
from ._damage import Damage as Damage
from ._damage import FeatureMap as FeatureMap
from ._damage import damage as damage
from ._engine import Engine as Engine
from ._engine import Work as Work
from ._faults import KINDS as KINDS
from ._faults import Faults as Faults
from ._faults import Protection as Protection
from ._faults import effects_of as effects_of
from ._faults import rounded_to as rounded_to
from ._fit import FitRow as FitRow
from ._fit import model_fit as model_fit
from ._neurons import neuron_vulnerability as neuron_vulnerability
from ._result import GROUPS as GROUPS
from ._result import Measured as Measured
from ._result import Row as Row
from ._result import Vulnerability as Vulnerability
from ._task import measure_task as measure_task
from ._task import task_examples as task_examples
from ._task import task_model as task_model
from ._vulnerability import vulnerability as vulnerability
