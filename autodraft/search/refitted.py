"""Drafts that were refitted before the search: read, checked against the target, and put beside its profile.

A search finds policies for the target's own weights. What `autodraft sparsify --as-draft` has trained comes from
outside: a profile with a file of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autodraft.cascade import SelfDraft
from autodraft.errors import InputError
from autodraft.profile import DraftProfile
from autodraft.runtime import LoadedModel
from autodraft.search.ready_made import blamed_on, check_target, copied, read_profile

_OPTION = "--refitted"


def read_refitted(path: Path) -> DraftProfile:
    """The profile at `path`, or in the folder `path`; `InputError` unless it has a draft on weights of its own."""
    profile = read_profile(path, _OPTION, "autodraft sparsify --as-draft")
    if not _refitted_drafts(profile):
        raise InputError(f"{_OPTION} {path}: its drafts run on the target's own weights; there is nothing to add")
    return profile


def load_refitted(paths: Sequence[Path], loaded: LoadedModel, folder: Path) -> tuple[SelfDraft, ...]:
    """The refitted drafts of all profiles, on weights in `folder`.

    Raises:
        InputError: a profile is missing or another target's, or its weights are missing, changed or do not fit.
    """
    drafts: dict[SelfDraft, None] = {}
    for path in paths:
        with blamed_on(_OPTION, path):
            drafts |= dict.fromkeys(_fitting(read_refitted(path), loaded, folder))
    return tuple(drafts)


def _refitted_drafts(profile: DraftProfile) -> list[SelfDraft]:
    return [draft for draft in profile.cascade.drafts if isinstance(draft, SelfDraft) and draft.weights is not None]


def _fitting(profile: DraftProfile, loaded: LoadedModel, folder: Path) -> list[SelfDraft]:
    """The profile's refitted drafts, each of them compiled once: whatever does not fit is found before the search."""
    check_target(profile, loaded, any_width=True)  # weights of a narrow model are tiled, those of a wide one do not fit
    drafts = []
    for draft in _refitted_drafts(profile):
        assert draft.weights is not None
        loaded.runtime.plan(draft.policy, draft.weights)
        drafts.append(draft.model_copy(update={"weights": copied(draft.weights, folder, "draft")}))
    return drafts
