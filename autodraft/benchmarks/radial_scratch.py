"""Radial networks from scratch beside sequential ones of equal mean compute: held-out loss after equal training.

Run as a stage of `autodraft.benchmarks.radial`. All networks see the same windows of text in the same order.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autodraft.runtime import LoadedModel
from autodraft.training.radial.scratch import ScratchRecipe, ScratchTrainer, held_out_score
from autodraft.training.radial.scratch_model import NetworkShape
from autodraft.training.texts import TextStreams, load_streams

NETWORKS = ("radial", "sequential", "sequential, all blocks")
_ROUTER_WIDTH = 32
_SAY_EVERY = 50


def scratch_row(
    loaded: LoadedModel, folder: Path, network: str, *, blocks: int, mean_blocks: int, steps: int, seed: int
) -> dict[str, Any]:
    """One network: its sizes, how it was trained, and its held-out score.

    Args:
        loaded: whose tokenizer is used.
        folder: of the checkpoints.
        network: one of `NETWORKS`.
        blocks: of the radial network and of the larger sequential one.
        mean_blocks: that the radial network runs per token; blocks of the smaller sequential one.
        steps: of the training.
        seed: of initial weights, windows and routes.
    """
    count = mean_blocks if network == "sequential" else blocks
    width = _ROUTER_WIDTH if network == "radial" else 0
    shape = NetworkShape(loaded.runtime.spec.vocab_size, count, width)
    recipe = ScratchRecipe(shape, float(mean_blocks), steps, seed=seed)
    streams = load_streams(loaded.tokenizer, (), recipe.window + 1, seed)
    return {"network": network, "seed": seed, **_trained(network, recipe, streams, folder)}


def _trained(name: str, recipe: ScratchRecipe, streams: TextStreams, folder: Path) -> Mapping[str, Any]:
    def say(step: int, loss: float) -> None:
        if step % _SAY_EVERY == 0:
            print(f"{name}, seed {recipe.seed}: step {step} of {recipe.steps}, loss {loss:.3f}", file=sys.stderr)

    place = f"scratch-{recipe.shape.num_blocks}-{recipe.shape.router_width}-{recipe.steps}-{recipe.seed}"
    trainer = ScratchTrainer(recipe, streams, folder / place)
    trainer.run(on_step=say)
    return {
        "blocks_in_all": recipe.shape.num_blocks,
        "parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
        "steps": recipe.steps,
        "tokens_per_step": recipe.window * recipe.batch,
        "held_out": held_out_score(trainer, streams),
    }
