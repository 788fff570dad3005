"""Outcomes: what a run meant, judged against fault-free runs.

A fault that changed numbers need not have mattered. The rule here decides, from the curves alone, between *nothing*, a
*crash* and *silent corruption*.
"""

from ._judge import CONFIDENCE as CONFIDENCE
from ._judge import METRICS as METRICS
from ._judge import TAIL as TAIL
from ._judge import TRAINING_METRIC as TRAINING_METRIC
from ._judge import Outcome as Outcome
from ._judge import Verdict as Verdict
from ._judge import end_of as end_of
from ._judge import judge as judge
from ._trajectory import Crash as Crash
from ._trajectory import Point as Point
from ._trajectory import Trajectory as Trajectory
from ._trajectory import trajectory_of as trajectory_of
