"""Campaigns: many trials of one population of faults, by a plan that says which, and what they tell about all of it."""

from ._plan import FAILED as FAILED
from ._plan import PLANS as PLANS
from ._plan import Exhaustive as Exhaustive
from ._plan import Fixed as Fixed
from ._plan import Importance as Importance
from ._plan import Plan as Plan
from ._plan import Sequential as Sequential
from ._plan import Stratified as Stratified
from ._plan import plan_of as plan_of
from ._plan import words_of as words_of
