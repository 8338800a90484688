"""A target and its profile from the options of a command.

Knows nothing of decoding. Without --model a profile's own target is loaded, as it was when it was searched.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from autodraft.errors import InputError, ModelNotFoundError

if TYPE_CHECKING:
    from autodraft.profile import DraftProfile
    from autodraft.runtime import LoadedModel


def load_target(
    model: str | None,
    profile: DraftProfile | None,
    *,
    widen: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
    backend: str | None = None,
    revision: str | None = None,
    byte_planes: bool | None = None,
) -> LoadedModel:
    """The model that was asked for; what was not said comes from the profile, then from the defaults."""
    if model is None and profile is None:
        raise InputError("give --model, --profile or both")
    name, factor = (model, widen or 1) if model is not None else (None, 1)
    if profile is not None:
        name, factor = _target_of(profile) if model is None else (model, _missing_factor(model, widen, profile))
    quiet_libraries(keep_on_terminal=True)
    from autodraft.runtime import load_model

    return load_model(
        str(name),
        widen=factor,
        dtype=dtype or (profile.target.dtype if profile else "auto"),
        device=device or "auto",
        backend=backend or "auto",
        revision=revision,
        byte_planes=bool(profile and profile.target.byte_planes) if byte_planes is None else byte_planes,
    )


def quiet_libraries(keep_on_terminal: bool = False) -> None:
    """Turn the progress bars and warnings of libraries off; on a terminal only where something else is shown."""
    warnings.filterwarnings("ignore", message=".* is experimental", category=UserWarning)
    if keep_on_terminal and sys.stderr.isatty():
        return
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]
    from transformers.utils import logging

    disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def load_profile(path: Path | None) -> DraftProfile | None:
    """The profile of --profile, or None."""
    from autodraft.profile import DraftProfile

    return None if path is None else DraftProfile.load(path)


def warn_of_other_device(loaded: LoadedModel, profile: DraftProfile) -> None:
    """One line on stderr where the profile's figures are another device's."""
    from autodraft.measure.device import device_stamp

    warning = profile.device_mismatch(device_stamp(loaded.runtime.device, loaded.runtime.backend))
    if warning:
        typer.echo(f"warning: {warning}", err=True)
    if profile.target.byte_planes != loaded.byte_planes:
        made = f"made with{'' if profile.target.byte_planes else 'out'} --byte-planes"
        typer.echo(
            f"warning: the profile was {made}; 8 bits mean something else here, its speedup may differ", err=True
        )


def _target_of(profile: DraftProfile) -> tuple[str, int]:
    """Name or path that loads the profile's target here, and how much to widen it."""
    from autodraft.configuration import resolve_model

    target, local = profile.target, Path(profile.target.path).is_dir()
    try:
        entry = resolve_model(target.name)
    except ModelNotFoundError:
        return target.path, target.widen
    if local and entry.path_or_id != target.path:
        return target.path, target.widen
    return target.name, max(1, target.widen // entry.widen)


def _missing_factor(model: str, widen: int | None, profile: DraftProfile) -> int:
    """The widening asked for, else what the name lacks of the profile's."""
    from autodraft.configuration import resolve_model

    return widen or max(1, profile.target.widen // resolve_model(model).widen)
