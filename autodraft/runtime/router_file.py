"""A router on disk: one safetensors file whose metadata says what graph it routes through.

Knows nothing of profiles or training. A router of a target serves its widened forms as well: their channels are copies.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autodraft.errors import ProfileError
from autodraft.runtime.routing import RouteGraph, Router
from autodraft.runtime.spec import ModelSpec

_KEY = "autodraft-router"
_SIZES = ("num_sub_layers", "unit", "reuse", "most_steps")


def write_router(router: Router, path: Path, expected_cost: float) -> None:
    """Write tensors and graph; `expected_cost` is the mean share of the blocks that its routes run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    graph = {name: getattr(router.graph, name) for name in _SIZES} | {"expected_cost": expected_cost}
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(
        {name: value.contiguous() for name, value in router.tensors().items()}, temporary, {_KEY: json.dumps(graph)}
    )
    temporary.chmod(0o644)  # safetensors writes for the owner alone
    temporary.replace(path)


def read_router(path: Path, spec: ModelSpec | None = None) -> Router:
    """Read a router, for a target of this architecture where one is given; `ProfileError` where it does not fit."""
    try:
        with safe_open(path, framework="pt") as file:
            document = json.loads((file.metadata() or {})[_KEY])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        graph = RouteGraph(**{name: document[name] for name in _SIZES})
        router = Router(graph, **tensors, expected_cost=float(document["expected_cost"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ProfileError(f"{path}: not a router that `autodraft train-router` wrote ({error})") from error
    return router if spec is None else _fitted(router, spec, path)


def _fitted(router: Router, spec: ModelSpec, path: Path) -> Router:
    hidden = router.inputs.shape[1]
    if router.graph.num_sub_layers != spec.num_sub_layers or spec.hidden_size % hidden:
        sizes = f"{router.graph.num_sub_layers // 2} blocks of {hidden} channels"
        raise ProfileError(f"{path}: this router is for a target with {sizes}, not for this model")
    return router.widened(spec.hidden_size // hidden)
