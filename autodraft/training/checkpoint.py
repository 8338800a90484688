"""Checkpoints that are either whole or absent: written beside the old one, then renamed over it.

Knows files, not what is in them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from autodraft.errors import InputError

FILE_NAME = "checkpoint.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Replace the folder's checkpoint by `state`, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{FILE_NAME}.tmp"
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / FILE_NAME)


def load(folder: Path) -> dict[str, Any] | None:
    """The folder's checkpoint, or None where there is none. Only reads files that this tool wrote."""
    path = folder / FILE_NAME
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    return state


def check_settings(folder: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise `InputError`, which says what differs, unless a folder's training is the one that is wanted."""
    different = [name for name in wanted if saved.get(name) != wanted[name]]
    if different:
        values = ", ".join(_difference(name, saved.get(name), wanted[name]) for name in different)
        raise InputError(
            f"{folder} holds a training with other settings ({values}); choose another --output or the same settings"
        )


def _difference(name: str, saved: object, wanted: object) -> str:
    if name == "identity":
        return "another model or text"
    return f"{name} {saved}, not {wanted}" if isinstance(wanted, int | float | str) else name
