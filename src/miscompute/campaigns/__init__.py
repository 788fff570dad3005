"""Campaigns: from one experiment to the rate of outcomes over a population of faults.

A plan says which faults of a population to try, an engine tries them, the store keeps a row for each. What is recorded
imports without PyTorch; what carries trials out is loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ._engine import ENGINES as ENGINES
from ._engine import Done as Done
from ._engine import Engine as Engine
from ._engine import Job as Job
from ._engine import Pool as Pool
from ._engine import Ray as Ray
from ._engine import engine_named as engine_named
from ._export import export as export
from ._export import frame as frame
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
from ._rounds import Watcher as Watcher
from ._rounds import carry_out as carry_out
from ._spec import Spec as Spec
from ._spec import load_spec as load_spec
from ._spec import schema as schema
from ._spec import spec_of as spec_of
from ._store import SCHEMA as SCHEMA
from ._store import STORE_FILE as STORE_FILE
from ._store import Record as Record
from ._store import Store as Store
from ._store import merge as merge

if TYPE_CHECKING:
    from ._campaign import Campaign as Campaign
    from ._campaign import CampaignResult as CampaignResult
    from ._campaign import Setting as Setting
    from ._campaign import campaign as campaign
    from ._campaign import campaign_of as campaign_of
    from ._campaign import key_of as key_of
    from ._campaign import result_of as result_of
    from ._replay import Replay as Replay
    from ._replay import replay as replay

_LAZY = {
    **dict.fromkeys(
        ("Campaign", "CampaignResult", "Setting", "campaign_of", "key_of", "result_of", "campaign"), "_campaign"
    ),
    **dict.fromkeys(("Replay", "replay"), "_replay"),
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
