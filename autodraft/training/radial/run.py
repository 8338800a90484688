"""From a `RouterJob` to a router's files: the target, its continuations, the training, its curve and its logs.

Knows nothing of command lines. The folder holds `router.safetensors`, `router.json` (what it is and what it is worth),
`blocks.safetensors` where blocks were refitted with it, `curve.jsonl` (held-out scores during training), the
checkpoint, and TensorBoard's logs where that is installed. What is trained for a target serves its widened forms.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autodraft.measure.device import versions
from autodraft.policy_text import decode_policy
from autodraft.profile import write_atomically
from autodraft.router_job import RouterJob
from autodraft.runtime import LoadedModel, ModelSpec, load_hf_model
from autodraft.runtime.draft_weights import kept_sub_layers, save_draft_weights
from autodraft.runtime.hf_weights import read_weights
from autodraft.runtime.precision import fast_precision
from autodraft.runtime.router_file import write_router
from autodraft.runtime.routing import RouteGraph
from autodraft.training.radial.continuations import Continuations
from autodraft.training.radial.evaluate import node_costs
from autodraft.training.radial.lessons import WINDOW_TOKENS, TrainedBlocks
from autodraft.training.radial.recipe import RouterRecipe
from autodraft.training.radial.static_routes import best_static_route
from autodraft.training.radial.trainer import RouterProgress, RouterTrainer
from autodraft.training.texts import TextStreams, load_streams

ROUTER_NAME, SUMMARY_NAME, CURVE_NAME = "router.safetensors", "router.json", "curve.jsonl"
BLOCKS_NAME = "blocks.safetensors"
START_NAME = "start.json"
HELD_OUT_SEQUENCES = 64


def train_router(
    job: RouterJob,
    loaded: LoadedModel,
    on_progress: Callable[[RouterProgress], None],
    on_search: Callable[[float], None] | None = None,
) -> Path:
    """Train, or resume, and write the router; returns the path of its summary.

    `loaded` is the target, not widened. `on_search` hears of the search for the first route: the cost that it has come
    down to.
    """
    longest = max(job.prompt_tokens, WINDOW_TOKENS) if job.train_blocks else job.prompt_tokens
    streams = load_streams(loaded.tokenizer, job.text, longest, job.seed)
    training, held_out = continuations(job, loaded, streams)
    folder = job.output_folder
    curve = _Curve(folder)
    recipe = recipe_of(job, loaded, streams.source, _first_route(job, training, folder, on_search))
    blocks = _trained_blocks(loaded, streams, recipe) if job.train_blocks else None
    trainer = RouterTrainer(training, held_out, recipe, folder, on_progress, curve.add, blocks)
    trainer.run()
    curve.rewrite(trainer.curve)
    router, score = trainer.finished()
    if blocks is not None:
        save_draft_weights(blocks.matrices, folder / BLOCKS_NAME, loaded.runtime.dtype)
    write_router(router, folder / ROUTER_NAME, router.expected_cost)
    summary = {
        "model": job.model,
        "fingerprint": loaded.fingerprint,
        "text": streams.source,
        "settings": job.model_dump(mode="json", exclude={"output"}),
        "sha256": hashlib.sha256((folder / ROUTER_NAME).read_bytes()).hexdigest(),
        "held_out": score.to_json(),
        "versions": versions(),
    }
    write_atomically(folder / SUMMARY_NAME, json.dumps(summary, indent=2) + "\n")
    return folder / SUMMARY_NAME


def is_trained(job: RouterJob) -> bool:
    """Whether the job's folder has what the job asks for."""
    path = job.output_folder / SUMMARY_NAME
    if not path.is_file():
        return False
    known = RouterJob.model_validate(json.loads(path.read_text(encoding="utf-8"))["settings"])
    return known.model_copy(update={"output": job.output}) == job


def continuations(
    job: RouterJob, loaded: LoadedModel, streams: TextStreams, *, window: int = 1
) -> tuple[Continuations, Continuations]:
    """What is trained on, and what is held out: prompts cut from the text, continued by the target."""
    prompts = streams.windows(job.sequences, job.prompt_tokens, job.seed, 0)[:, 1:]
    others = streams.held_out_windows(min(HELD_OUT_SEQUENCES, job.sequences), job.prompt_tokens)[:, 1:]
    runtime = loaded.runtime
    return (
        Continuations(runtime, prompts, job.new_tokens, window=window),
        Continuations(runtime, others, job.new_tokens, window=window),
    )


def _trained_blocks(loaded: LoadedModel, streams: TextStreams, recipe: RouterRecipe) -> TrainedBlocks:
    model = load_hf_model(loaded)
    model = model.to(fast_precision(model.dtype, loaded.runtime.device))
    spec = loaded.runtime.spec
    return TrainedBlocks(loaded.runtime, spec, read_weights(model, spec), streams, recipe)


def graph_of(job: RouterJob, spec: ModelSpec) -> RouteGraph:
    """What routes of a job are made of."""
    nodes = spec.num_blocks if job.unit == "block" else spec.num_sub_layers
    return RouteGraph(spec.num_sub_layers, job.unit, job.reuse, job.most_steps or nodes)


def _first_route(
    job: RouterJob, training: Continuations, folder: Path, on_search: Callable[[float], None] | None
) -> tuple[int, ...]:
    """The nodes that every token runs at first: those of the policy given, else of the best one of the wanted cost."""
    spec = training.runtime.spec
    graph, path = graph_of(job, spec), folder / START_NAME
    if job.start is not None:
        policy = decode_policy(job.start)
        policy.check(spec.num_blocks, spec.num_kv_heads)
        return tuple(sorted({sub_layer // graph.width for sub_layer in kept_sub_layers(policy)}))
    asked = {"cost": job.cost, "unit": job.unit, "seed": job.seed, "sequences": job.sequences}
    if path.is_file() and (known := json.loads(path.read_text(encoding="utf-8")))["asked"] == asked:
        return tuple(known["nodes"])
    nodes = best_static_route(training, graph, node_costs(spec, graph), job.cost, seed=job.seed, on_step=on_search)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"asked": asked, "nodes": nodes}) + "\n")
    return nodes


def recipe_of(job: RouterJob, loaded: LoadedModel, text: str, start: tuple[int, ...]) -> RouterRecipe:
    """What decides the result of a job on a loaded target whose first route is `start`."""
    graph = graph_of(job, loaded.runtime.spec)
    sizes = f"{job.sequences} of {job.prompt_tokens} + {job.new_tokens}"
    return RouterRecipe(
        cost=job.cost,
        unit=job.unit,
        reuse=job.reuse,
        most_steps=graph.most_steps,
        width=job.width,
        start=start,
        steps=job.steps,
        rows_per_step=job.rows_per_step,
        seed=job.seed,
        identity=f"{loaded.fingerprint['weights']} widened {loaded.widen}, {text}, {sizes}",
        bits=job.bits,
        trains_blocks=job.train_blocks,
        learning_rate=job.learning_rate if job.train_blocks else 0.0,
    )


class _Curve:
    """Held-out scores as JSON Lines, and for TensorBoard where that is installed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / CURVE_NAME
        self._board: Any = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"))

    def add(self, row: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._board is not None:
            for name in ("agreement", "loss", "cost", "price"):
                self._board.add_scalar(f"held_out/{name}", row[name], row["step"])
            self._board.flush()

    def rewrite(self, rows: list[dict[str, Any]]) -> None:
        """The whole curve as the trainer knows it: a killed run may have written points that were trained again."""
        write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in rows))
