"""The target's weights on a device and the forward pass of any policy over a shared KV cache."""

from autodraft.runtime.backend import KVCache
from autodraft.runtime.choosing import NEVER, Candidates, ChainStop, ChoiceNoise
from autodraft.runtime.cycles import Cycle, CycleBounds, Lookup, StandingDraft
from autodraft.runtime.loading import LoadedModel, build_runtime, load_hf_model, load_model
from autodraft.runtime.plan import DraftPlan
from autodraft.runtime.routed_plan import RoutedPlan
from autodraft.runtime.rows import Rows
from autodraft.runtime.spec import SUPPORTED_FAMILIES, ModelSpec
from autodraft.runtime.transformer import TransformerRuntime

__all__ = [
    "NEVER",
    "SUPPORTED_FAMILIES",
    "Candidates",
    "ChainStop",
    "ChoiceNoise",
    "Cycle",
    "CycleBounds",
    "DraftPlan",
    "KVCache",
    "LoadedModel",
    "Lookup",
    "ModelSpec",
    "RoutedPlan",
    "Rows",
    "StandingDraft",
    "TransformerRuntime",
    "build_runtime",
    "load_hf_model",
    "load_model",
]
