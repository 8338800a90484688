"""Decoding without a model: the product's schedulers against synthetic drafts and a virtual clock.

Knows nothing of runtimes, weights or text. Every speedup that comes from here is *predicted*, and only as good as the
acceptance and the cost curves that a `World` states.
"""

from autodraft.simulation.loading import load_world, world_names
from autodraft.simulation.loop import Simulation, simulate
from autodraft.simulation.schedules import Entry, Schedule, default_schedule
from autodraft.simulation.search import best_static
from autodraft.simulation.truth import Truth
from autodraft.simulation.worlds import FreeDraft, ModelDraft, Phase, Runs, World

__all__ = [
    "Entry",
    "FreeDraft",
    "ModelDraft",
    "Phase",
    "Runs",
    "Schedule",
    "Simulation",
    "Truth",
    "World",
    "best_static",
    "default_schedule",
    "load_world",
    "simulate",
    "world_names",
]
