"""Searching for the cascade that decodes fastest on a device, and exporting it as a profile."""

from autodraft.search.compare import SearcherResult, compare_searchers
from autodraft.search.loop import SearchProgress
from autodraft.search.run import run_search

__all__ = [
    "SearchProgress",
    "SearcherResult",
    "compare_searchers",
    "run_search",
]
