"""Outcomes: what a run meant, judged against fault-free runs.

A fault that changed numbers need not have mattered. The rule here decides, from the curves alone, between *nothing*, a
*crash* and *silent corruption*; the taxonomy names what each of the three looked like.
"""

from ._judge import CONFIDENCE as CONFIDENCE
from ._judge import METRICS as METRICS
from ._judge import TAIL as TAIL
from ._judge import TRAINING_METRIC as TRAINING_METRIC
from ._judge import Outcome as Outcome
from ._judge import Verdict as Verdict
from ._judge import end_of as end_of
from ._judge import judge as judge
from ._judge import prediction_limit as prediction_limit
from ._taxonomy import FAMILIES as FAMILIES
from ._taxonomy import INFERENCE_OUTCOMES as INFERENCE_OUTCOMES
from ._taxonomy import OUTCOMES as OUTCOMES
from ._taxonomy import SHARP as SHARP
from ._taxonomy import SHORT_TERM as SHORT_TERM
from ._taxonomy import TOLERANCE as TOLERANCE
from ._taxonomy import Classified as Classified
from ._taxonomy import Evidence as Evidence
from ._taxonomy import OutcomeRule as OutcomeRule
from ._taxonomy import classify as classify
from ._taxonomy import classify_inference as classify_inference
from ._taxonomy import examples as examples
from ._trajectory import Crash as Crash
from ._trajectory import Point as Point
from ._trajectory import Trajectory as Trajectory
from ._trajectory import trajectory_of as trajectory_of
