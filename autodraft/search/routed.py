"""Drafts with a router that was trained before the search: read, checked against the target, put beside its profile.

What `autodraft train-router` has trained comes from outside: a profile with the router's file, the chain that is
predicted to be best, and its costs as they were timed on text. The search measures that chain and arranges it in
cascades; it does not predict it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from autodraft.cascade import RoutedDraft
from autodraft.errors import InputError
from autodraft.profile import DraftPrior, DraftProfile
from autodraft.runtime import LoadedModel
from autodraft.search.ready_made import blamed_on, check_target, copied, read_profile

_OPTION = "--router"


def read_routed(path: Path) -> DraftProfile:
    """The profile at `path`, or in the folder `path`; `InputError` unless it has a routed draft and its costs."""
    profile = read_profile(path, _OPTION, "autodraft train-router")
    if not any(isinstance(draft, RoutedDraft) for draft in profile.cascade.drafts):
        raise InputError(f"{_OPTION} {path}: none of its drafts has a router; there is nothing to add")
    if not profile.priors.drafts:
        raise InputError(f"{_OPTION} {path}: the profile does not say what its drafts cost")
    return profile


def load_routed(paths: Sequence[Path], loaded: LoadedModel, folder: Path) -> dict[RoutedDraft, DraftPrior]:
    """The routed drafts of all profiles, their routers in `folder`, and what is known of each.

    Raises:
        InputError: a profile is missing or another target's, or its router is missing, changed or does not fit.
    """
    drafts: dict[RoutedDraft, DraftPrior] = {}
    for path in paths:
        with blamed_on(_OPTION, path):
            drafts.update(_fitting(read_routed(path), loaded, folder))
    return drafts


def _fitting(profile: DraftProfile, loaded: LoadedModel, folder: Path) -> Iterator[tuple[RoutedDraft, DraftPrior]]:
    """The profile's routed drafts, each of them compiled once: whatever does not fit is found before the search."""
    check_target(profile, loaded)
    for draft, prior in zip(profile.cascade.drafts, profile.priors.drafts, strict=True):
        if isinstance(draft, RoutedDraft):
            loaded.runtime.routed_plan(draft.router, draft.passed_keys, bits=draft.bits, weights=draft.weights)
            files = {"router": copied(draft.router, folder, "router")}
            if draft.weights is not None:
                files["weights"] = copied(draft.weights, folder, "blocks")
            yield draft.model_copy(update=files), prior
