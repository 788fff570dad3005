"""Experiments: golden and faulty trainings, side by side, from a specification to a judged outcome.

A run is a function of (recipe, array, fault); everything is recorded beside it, and a run that was killed continues
from its last checkpoint to the same bits.
"""

from ._experiment import Experiment as Experiment
from ._experiment import Result as Result
from ._experiment import train as train
from ._run import Run as Run
from ._run import execute as execute
