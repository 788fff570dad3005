"""Analysis: rates, differences and FIT with intervals that keep their promise.

A campaign is a sample. What it says about a chip or a model is a number between two limits, and the limits are worth
something only if, over all campaigns, they contain the truth as often as they say. The usual formulas do not where
events are rare, and none does where one looks again after each trial. Those here do, whatever the true rate: each
interval's coverage is calculated or simulated by its test. Numbers in, numbers out; nothing here knows about faults or
models.
"""

from ._binomial import METHODS as METHODS
from ._binomial import rate as rate
from ._compare import Comparison as Comparison
from ._compare import compare_rates as compare_rates
from ._compare import mean_difference as mean_difference
from ._compare import permutation_p as permutation_p
from ._estimate import Estimate as Estimate
from ._fit import Component as Component
from ._fit import faults_per_hour as faults_per_hour
from ._fit import fit as fit
from ._fit import fit_from_faults_per_hour as fit_from_faults_per_hour
from ._fit import fit_from_probability_per_step as fit_from_probability_per_step
from ._fit import observed_fit as observed_fit
from ._fit import probability_per_step as probability_per_step
from ._poisson import poisson_rate as poisson_rate
from ._sample_size import leveugle as leveugle
from ._sample_size import trials_for as trials_for
from ._sequential import StoppingRule as StoppingRule
from ._sequential import confidence_sequence as confidence_sequence
from ._stratified import Stratum as Stratum
from ._stratified import deal as deal
from ._stratified import neyman as neyman
from ._stratified import stratified_rate as stratified_rate
from ._weighted import weighted_mean as weighted_mean
from ._weighted import weighted_rate as weighted_rate
