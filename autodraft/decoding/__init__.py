"""Speculative decoding: token trees, drafters, verification, and the decoder that runs a cascade."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autodraft.decoding.choice import TargetChoice
from autodraft.decoding.decoder import CascadeDecoder
from autodraft.decoding.drafters import DraftContext, Drafter, Outcome
from autodraft.decoding.growth import Growth
from autodraft.decoding.prompt_cache import PromptCache
from autodraft.decoding.sampling import GREEDY, SamplingConfig, probabilities
from autodraft.decoding.scheduled import ScheduledDrafter
from autodraft.decoding.schedulers import TreeScheduler, make_scheduler
from autodraft.decoding.sources import TokenSource
from autodraft.decoding.stats import DecodingStats, DraftCounts, FinishReason, Generation, StopCondition
from autodraft.decoding.stop_strings import IncrementalText, StopStrings
from autodraft.decoding.tree import TokenTree
from autodraft.decoding.verification import Verified, verify_choices, verify_sampled

if TYPE_CHECKING:
    from autodraft.decoding.hf_generate import custom_generate

__all__ = [
    "GREEDY",
    "CascadeDecoder",
    "DecodingStats",
    "DraftContext",
    "DraftCounts",
    "Drafter",
    "FinishReason",
    "Generation",
    "Growth",
    "IncrementalText",
    "Outcome",
    "PromptCache",
    "SamplingConfig",
    "ScheduledDrafter",
    "StopCondition",
    "StopStrings",
    "TargetChoice",
    "TokenSource",
    "TokenTree",
    "TreeScheduler",
    "Verified",
    "custom_generate",
    "make_scheduler",
    "probabilities",
    "verify_choices",
    "verify_sampled",
]


def __getattr__(name: str) -> Any:
    """`custom_generate` on first use: it alone imports transformers, which takes seconds."""
    if name != "custom_generate":
        raise AttributeError(f"module 'autodraft.decoding' has no attribute {name!r}")
    from autodraft.decoding.hf_generate import custom_generate

    return custom_generate
