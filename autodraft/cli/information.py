"""`autodraft models` and `autodraft device`: what there is to work with here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from autodraft.cli import options
from autodraft.cli.failures import reported_failures
from autodraft.errors import InputError

if TYPE_CHECKING:
    from autodraft.configuration import ModelEntry


@reported_failures()
def models(as_json: options.Json = False) -> None:
    """List the configured model names and what they resolve to; hub ids and folders work as well."""
    from autodraft.configuration import model_configs, resolve_model

    entries = [resolve_model(name) for name in model_configs()]
    rows = [{**entry.model_dump(), "present": _is_present(entry)} for entry in entries]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console

    from autodraft.report.layout import plain_table

    table = plain_table("name", "resolves to", "widen", "present")
    for row in rows:
        where = f"bundled ({Path(row['path_or_id']).name})" if row["is_local"] else row["path_or_id"]
        table.add_row(row["name"], where, str(row["widen"]), "yes" if row["present"] else "hub")
    Console().print(table)


@reported_failures()
def device(device: options.Device = None, as_json: options.Json = False) -> None:
    """Describe this device as profiles do, and say which kernels there are."""
    facts = _device_facts(device or "auto")
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        shown = ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else value
        typer.echo(f"{name:<16} {shown}")


def _is_present(entry: ModelEntry) -> bool:
    """Whether nothing must be downloaded for it."""
    if entry.is_local:
        return (Path(entry.path_or_id) / "config.json").is_file()
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(entry.path_or_id, "config.json", revision=entry.revision), str)


def _device_facts(name: str) -> dict[str, Any]:
    import torch

    from autodraft.measure.device import device_stamp
    from autodraft.runtime.linears import triton_obstacle
    from autodraft.runtime.native_build import NativeUnavailableError, load_library

    has_cuda = torch.cuda.is_available()
    try:
        place = torch.device(("cuda" if has_cuda else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: no such device; use cpu or cuda") from error
    if place.type == "cuda" and not has_cuda:
        raise InputError(f"--device {name}: this machine has no usable CUDA device")
    try:
        load_library()
        native = "available"
    except NativeUnavailableError as error:
        native = f"not available: {error}"
    backend = "native" if native == "available" and place.type == "cpu" else "torch"
    facts = {**device_stamp(place, backend).model_dump(), "native_kernels": native, "cuda": has_cuda}
    if place.type == "cuda":
        obstacle = triton_obstacle(place)
        facts["triton_kernels"] = "available" if obstacle is None else f"not available: {obstacle}"
    return facts
