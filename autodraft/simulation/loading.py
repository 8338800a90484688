"""Worlds by name: the files of configs/simulate, or any YAML file of the same form. Knows nothing of simulating."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from autodraft.errors import InputError
from autodraft.profile import first_problem
from autodraft.simulation.worlds import World


def world_names() -> list[str]:
    """The names that `--world` takes besides files."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def load_world(name: str) -> World:
    """The world of a YAML file, or of a name in configs/simulate; `InputError` where it is none."""
    path = Path(name).expanduser()
    if not path.is_file():
        if name not in world_names():
            raise InputError(f"{name}: no such file, and no shipped world ({', '.join(world_names())})")
        path = _folder() / f"{name}.yaml"
    return checked_world(_read(path), str(path))


def checked_world(settings: Any, source: str) -> World:
    """A world from what a file or an option says; `InputError` names `source`."""
    try:
        return World.model_validate(settings)
    except ValidationError as error:
        raise InputError(f"{source}: {first_problem(error)}") from error


def _folder() -> Path:
    return Path(str(files("autodraft.configs"))) / "simulate"


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the world ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file ({str(error).splitlines()[0]})") from error
