"""What drafts that were trained before the search have in common: their profile is read and checked, their file copied.

Knows nothing of what kinds of drafts there are, or of searching. A file is copied under a name made of its checksum, so
that the profile which the search exports finds it, and a resumed search knows it again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autodraft.errors import InputError, PolicyError, ProfileError
from autodraft.profile import DraftProfile
from autodraft.profile_parts import WeightsFile
from autodraft.runtime import LoadedModel

_PROFILE_NAME = "profile.json"


def read_profile(path: Path, option: str, maker: str) -> DraftProfile:
    """The profile at `path`, or in the folder `path`; `InputError` names the option and the command that makes one."""
    given = path.expanduser()
    source = given / _PROFILE_NAME if given.is_dir() else given
    if not source.is_file():
        raise InputError(f"{option} {path}: no such profile; `{maker}` makes one")
    return DraftProfile.load(source)


@contextmanager
def blamed_on(option: str, path: Path) -> Iterator[None]:
    """What does not fit, or is missing or changed, becomes an `InputError` that names the option and its path."""
    try:
        yield
    except (PolicyError, ProfileError) as error:
        raise InputError(f"{option} {path}: {error}") from error


def check_target(profile: DraftProfile, loaded: LoadedModel, *, any_width: bool = False) -> None:
    """Raises `ProfileError` where the profile is another target's, or (but for `any_width`) one widened otherwise."""
    spec = loaded.runtime.spec
    widen = None if any_width else loaded.widen
    profile.check_target(loaded.fingerprint, spec.num_blocks, spec.num_kv_heads, widen)


def copied(weights: WeightsFile, folder: Path, stem: str) -> WeightsFile:
    """The same bytes in `folder`."""
    source, path = weights.verified_path(), folder / f"{stem}-{weights.sha256[:12]}.safetensors"
    if not (path.is_file() and WeightsFile.of(path, folder).sha256 == weights.sha256):
        partial = path.with_suffix(".tmp")
        shutil.copyfile(source, partial)
        partial.replace(path)
    return WeightsFile.of(path, folder)
