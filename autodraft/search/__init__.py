"""Searching for the cascade that decodes fastest on a device, and exporting it as a profile."""

from autodraft.search.compare import SearcherResult, compare_searchers
from autodraft.search.evaluator import Evaluation, Evaluator, TrialFailed
from autodraft.search.loop import SearchProgress
from autodraft.search.run import run_search

__all__ = [
    "Evaluation",
    "Evaluator",
    "SearchProgress",
    "SearcherResult",
    "TrialFailed",
    "compare_searchers",
    "run_search",
]
