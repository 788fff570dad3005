"""Experiments: golden and faulty trainings, side by side, from a specification to a judged outcome.

A run is a function of (recipe, array, fault); everything is recorded beside it, and a run that was killed continues
from its last checkpoint to the same bits.
"""

from ._distributed import execute_distributed as execute_distributed
from ._execute import execute as execute
from ._execute import replacing as replacing
from ._experiment import Experiment as Experiment
from ._experiment import Result as Result
from ._experiment import check_layers as check_layers
from ._experiment import environment as environment
from ._experiment import train as train
from ._experiment import usable as usable
from ._fleet import Fleet as Fleet
from ._fleet import average_in_rank_order as average_in_rank_order
from ._fleet_experiment import FleetExperiment as FleetExperiment
from ._fleet_experiment import FleetResult as FleetResult
from ._fleet_experiment import train_fleet as train_fleet
from ._recorded import Recorded as Recorded
from ._recorded import recorded as recorded
from ._run import Run as Run
from ._scalars import Write as Write
from ._scalars import check_tensorboard as check_tensorboard
from ._scalars import scalars as scalars
from ._trial import GoldenRun as GoldenRun
from ._trial import record_golden as record_golden
from ._trial import run_trial as run_trial
