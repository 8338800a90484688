"""Drafts that were refitted before the search: read, checked against the target, and put beside its profile.

A search finds policies for the target's own weights. What `autodraft sparsify --as-draft` has trained comes from
outside: a profile with a file of weights. The weights are copied into the search's folder under a name made of their
checksum, so that the profile which the search exports finds them there, and a resumed search knows them again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from autodraft.cascade import SelfDraft
from autodraft.errors import InputError, PolicyError, ProfileError
from autodraft.profile import DraftProfile
from autodraft.profile_parts import WeightsFile
from autodraft.runtime import LoadedModel

_PROFILE_NAME = "profile.json"


def read_refitted(path: Path) -> DraftProfile:
    """The profile at `path`, or in the folder `path`; `InputError` unless it has a draft on weights of its own."""
    given = path.expanduser()
    source = given / _PROFILE_NAME if given.is_dir() else given
    if not source.is_file():
        raise InputError(f"--refitted {path}: no such profile; `autodraft sparsify --as-draft` makes one")
    profile = DraftProfile.load(source)
    if not _refitted_drafts(profile):
        raise InputError(f"--refitted {path}: its drafts run on the target's own weights; there is nothing to add")
    return profile


def load_refitted(paths: Sequence[Path], loaded: LoadedModel, folder: Path) -> tuple[SelfDraft, ...]:
    """The refitted drafts of all profiles, on weights in `folder`.

    Raises:
        InputError: a profile is missing or another target's, or its weights are missing, changed or do not fit.
    """
    drafts: dict[SelfDraft, None] = {}
    for path in paths:
        try:
            drafts |= dict.fromkeys(_fitting(read_refitted(path), loaded, folder))
        except (PolicyError, ProfileError) as error:
            raise InputError(f"--refitted {path}: {error}") from error
    return tuple(drafts)


def _refitted_drafts(profile: DraftProfile) -> list[SelfDraft]:
    return [draft for draft in profile.cascade.drafts if isinstance(draft, SelfDraft) and draft.weights is not None]


def _fitting(profile: DraftProfile, loaded: LoadedModel, folder: Path) -> list[SelfDraft]:
    """The profile's refitted drafts, each of them compiled once: whatever does not fit is found before the search."""
    spec, drafts = loaded.runtime.spec, []
    profile.check_target(loaded.fingerprint, spec.num_blocks, spec.num_kv_heads, loaded.widen)
    for draft in _refitted_drafts(profile):
        assert draft.weights is not None
        loaded.runtime.plan(draft.policy, draft.weights)
        drafts.append(draft.model_copy(update={"weights": _copied(draft.weights, folder)}))
    return drafts


def _copied(weights: WeightsFile, folder: Path) -> WeightsFile:
    """The same bytes in `folder`."""
    source, path = weights.verified_path(), folder / f"draft-{weights.sha256[:12]}.safetensors"
    if not (path.is_file() and WeightsFile.of(path, folder).sha256 == weights.sha256):
        partial = path.with_suffix(".tmp")
        shutil.copyfile(source, partial)
        partial.replace(path)
    return WeightsFile.of(path, folder)
