"""`ScratchTrainer`: radial and sequential networks from scratch on the same windows of text, resumable.

The mean number of blocks is a constraint: its price rises while tokens run more than they should and falls while they
run less. Knows nothing of targets or reports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from autodraft.errors import TrainingError
from autodraft.training import checkpoint
from autodraft.training.optim import lr_share
from autodraft.training.radial.scratch_model import NetworkShape, RadialNetwork
from autodraft.training.texts import TextStreams

_PRICE_RATE, _APPROACH = 0.1, 0.4
_CHECKPOINT_EVERY, _ROWS = 50, 16
_THRIFT_STEPS, _WIDEST = 10, 8.0


@dataclass(frozen=True)
class ScratchRecipe:
    """Everything that decides the result.

    Attributes:
        mean_blocks: blocks that a token runs on average; of no meaning without a router.
        window: tokens of a training window.
        batch: windows of a step.
        warmup_share, final_lr_share: of the schedule.
    """

    shape: NetworkShape
    mean_blocks: float
    steps: int
    window: int = 64
    batch: int = 16
    learning_rate: float = 3e-3
    warmup_share: float = 0.05
    final_lr_share: float = 0.1
    seed: int = 0


class ScratchTrainer:
    """One training in one folder; `run` continues whatever the folder's checkpoint says."""

    def __init__(self, recipe: ScratchRecipe, streams: TextStreams, folder: Path) -> None:
        self.recipe, self.step, self.price = recipe, 0, 0.0
        self.network = RadialNetwork(recipe.shape, recipe.seed)
        self._streams, self._folder = streams, folder
        self._adam = torch.optim.AdamW(self.network.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
        self._restore()

    def run(self, max_steps: int | None = None, on_step: Callable[[int, float], None] | None = None) -> None:
        """Train to the last step, or for `max_steps` more; `on_step` hears of steps done and the loss.

        Raises:
            TrainingError: the training diverged; the last good checkpoint is kept.
        """
        last = self.recipe.steps if max_steps is None else min(self.recipe.steps, self.step + max_steps)
        while self.step < last:
            loss = self._train()
            if on_step is not None:
                on_step(self.step, loss)
            if self.step % _CHECKPOINT_EVERY == 0:
                self._save()
        self._save()

    def _train(self) -> float:
        recipe = self.recipe
        windows = self._streams.windows(recipe.batch, recipe.window, recipe.seed, self.step)
        noise = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        for group in self._adam.param_groups:
            group["lr"] = recipe.learning_rate * lr_share(self.step / recipe.steps, recipe)
        logits, runs = self.network(windows[:, :-1], noise)
        loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        share = runs.sum(-1).mean() / recipe.shape.num_blocks
        self._adam.zero_grad()
        (loss + self.price * share).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        if not isfinite(float(loss.detach())):
            raise TrainingError(f"the training diverged at step {self.step}; its last good checkpoint is kept")
        self._adam.step()
        if recipe.shape.router_width:
            self.price = max(0.0, self.price + _PRICE_RATE * (float(share.detach()) - self._aim()))
        self.step += 1
        return float(loss.detach())

    def _aim(self) -> float:
        """Share of the blocks that tokens should run now: all at first, the wanted one after `_APPROACH`."""
        wanted = self.recipe.mean_blocks / self.recipe.shape.num_blocks
        return max(wanted, 1.0 - (1.0 - wanted) * self.step / self.recipe.steps / _APPROACH)

    def _save(self) -> None:
        state = {"step": self.step, "price": self.price, "network": self.network.state_dict()}
        checkpoint.save(self._folder, {**state, "recipe": asdict(self.recipe), "adam": self._adam.state_dict()})

    def _restore(self) -> None:
        state = checkpoint.load(self._folder)
        if state is None:
            return
        checkpoint.check_settings(self._folder, state["recipe"], asdict(self.recipe))
        self.step, self.price = state["step"], state["price"]
        self.network.load_state_dict(state["network"])
        self._adam.load_state_dict(state["adam"])


@torch.no_grad()
def held_out_score(trainer: ScratchTrainer, streams: TextStreams, count: int = 128) -> dict[str, Any]:
    """Held-out loss (nats per token) and mean blocks run, on the likeliest routes of the wanted mean cost.

    What the routes lack or have too much of that cost is levelled out on training windows by one number, as a router's
    over a finished target is (`thrift`).
    """
    recipe, network = trainer.recipe, trainer.network
    thrift = 0.0
    if recipe.shape.router_width:
        thrift = _levelling(network, streams.windows(4 * _ROWS, recipe.window, recipe.seed, recipe.steps), recipe)
    windows = streams.held_out_windows(count, recipe.window)
    losses, runs = zip(*(_judged(network, rows, thrift) for rows in windows.split(_ROWS)), strict=True)
    ran = torch.cat(runs)
    return {
        "loss": float(torch.cat(losses).mean()),
        "blocks": float(ran.sum(-1).mean()),
        "deviation": float(ran.sum(-1).std()),
        "by_block": ran.flatten(0, 1).mean(0).tolist(),
    }


def _judged(network: RadialNetwork, windows: Tensor, thrift: float) -> tuple[Tensor, Tensor]:
    logits, runs = network(windows[:, :-1], thrift=thrift)
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="none"), runs


def _levelling(network: RadialNetwork, windows: Tensor, recipe: ScratchRecipe) -> float:
    low, high = -_WIDEST, _WIDEST
    for _ in range(_THRIFT_STEPS):
        middle = (low + high) / 2
        blocks = [_judged(network, rows, middle)[1].sum(-1).mean() for rows in windows.split(_ROWS)]
        low, high = (middle, high) if float(torch.stack(blocks).mean()) > recipe.mean_blocks else (low, middle)
    return high
