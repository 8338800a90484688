"""The training loop: one step after another until the budget is spent, resumable at every checkpoint.

Knows clocks, checkpoints and progress. Does not know where the corpus comes from or what is exported.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autodraft.training import checkpoint
from autodraft.training.config import TrainConfig
from autodraft.training.evaluate import held_out_loss
from autodraft.training.forward import SublayerForward, build_model
from autodraft.training.optim import Optimisers
from autodraft.training.parallel import Team
from autodraft.training.tokens import EncodedCorpus
from autodraft.training.windows import WindowSampler, eval_windows


@dataclass
class Counters:
    """How far a run has come; `curve` holds [tokens, train loss, held-out loss] triples."""

    step: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    train_loss: float | None = None
    curve: list[list[float]] = field(default_factory=list)


def choose_skipped(num_sublayers: int, max_rate: float, rng: random.Random) -> Collection[int]:
    """Stochastic depth: sub-layer i is skipped with a probability that rises linearly to `max_rate`."""
    last = max(1, num_sublayers - 1)
    return {i for i in range(num_sublayers) if rng.random() < max_rate * i / last}


class Trainer:
    """One run in one work folder. `run()` continues whatever the folder's checkpoint says."""

    def __init__(
        self,
        config: TrainConfig,
        corpus: EncodedCorpus,
        texts: list[str],
        folder: Path,
        device: torch.device,
        team: Team = Team(),  # noqa: B008 - frozen
    ) -> None:
        self.config = config
        self._team = team
        self.counters = Counters()
        self._folder = folder
        self._device = device
        tokenizer = corpus.tokenizer
        self.model = build_model(config.shape, tokenizer.bos_token_id, tokenizer.eos_token_id, config.seed)
        self.model.to(device)  # type: ignore[arg-type]
        self._forward = SublayerForward(self.model, config.shape, config.compile)
        self.eager = SublayerForward(self.model, config.shape)
        self._optimisers = Optimisers(self.model, config)
        self._sampler = WindowSampler(corpus.training, texts, tokenizer, config.phases, config.edit_share, config.seed)
        self._depth_rng = random.Random(config.seed + 1)
        self._eval = eval_windows(corpus.held_out, config.eval_windows, config.eval_length).to(device)
        self._restore()

    @property
    def progress(self) -> float:
        """Share of the budget spent, from 0 to 1."""
        if self.config.tokens is not None:
            return min(1.0, self.counters.tokens / self.config.tokens)
        return min(1.0, self.counters.elapsed_s / (60.0 * self.config.minutes))

    def run(self, max_steps: int | None = None) -> None:
        """Train until the budget is spent, or for `max_steps` more steps; leaves a checkpoint behind."""
        counters, started = self.counters, time.monotonic() - self.counters.elapsed_s
        last_save = last_eval = counters.elapsed_s
        tokens_then, elapsed_then = counters.tokens, counters.elapsed_s
        stop_at = None if max_steps is None else counters.step + max_steps
        try:
            while self.progress < 1.0 and counters.step != stop_at:
                loss = self._step()
                old = counters.train_loss
                counters.train_loss = loss if old is None else 0.97 * old + 0.03 * loss
                counters.elapsed_s = self._team.leaders(time.monotonic() - started)
                if counters.elapsed_s - last_eval >= self.config.evaluate_every_s:
                    speed = (counters.tokens - tokens_then) / (counters.elapsed_s - elapsed_then)
                    tokens_then, elapsed_then = counters.tokens, counters.elapsed_s
                    self._report(speed)
                    last_eval = counters.elapsed_s
                if counters.elapsed_s - last_save >= self.config.checkpoint_every_s:
                    self.save()
                    last_save = counters.elapsed_s
            if self.progress >= 1.0:
                self._report(None)
        finally:
            self.save()

    def save(self) -> None:
        """Write the checkpoint; in a team, only the leader does."""
        if not self._team.leads:
            return
        state: dict[str, Any] = {
            "recipe": self.config.recipe(),
            "model": self.model.state_dict(),
            "optimisers": self._optimisers.state(),
            "sampler": self._sampler.state(),
            "depth_rng": self._depth_rng.getstate(),
            "torch_rng": torch.get_rng_state(),
            "counters": vars(self.counters),
        }
        checkpoint.save(self._folder, state)

    def _restore(self) -> None:
        state = checkpoint.load(self._folder)
        if state is None:
            return
        if state["recipe"]["shape"] != self.config.recipe()["shape"]:
            raise ValueError(f"the checkpoint in {self._folder} is of another shape: use another --work-dir")
        self.model.load_state_dict(state["model"])
        self._optimisers.restore(state["optimisers"])
        self._sampler.restore(state["sampler"])
        self._depth_rng.setstate(state["depth_rng"])
        torch.set_rng_state(state["torch_rng"])
        self.counters = Counters(**state["counters"])

    def _step(self) -> float:
        progress = self.progress
        windows: Tensor = self._sampler.draw(progress, self.config.tokens_per_step).to(self._device)
        skipped: Collection[int] = ()
        if self.config.layer_dropout:
            skipped = choose_skipped(self.config.shape.num_sublayers, self.config.layer_dropout, self._depth_rng)
        loss = self._forward.loss(self._team.share(windows), skipped)
        loss.backward()
        self._team.average_gradients(self.model.parameters())
        self._optimisers.step(progress)
        self.counters.step += 1
        self.counters.tokens += windows.shape[0] * (windows.shape[1] - 1)
        return self._team.mean(float(loss.detach()))

    def _report(self, tokens_per_s: float | None) -> None:
        if not self._team.leads:
            return
        counters = self.counters
        held_out = held_out_loss(self.eager, self._eval)
        train = counters.train_loss if counters.train_loss is not None else float("nan")
        counters.curve.append([counters.tokens, round(train, 4), round(held_out, 4)])
        speed = "" if tokens_per_s is None else f"  {tokens_per_s:,.0f} tokens/s"
        left = ""
        if self.config.tokens is None:
            left = f"  {max(0.0, self.config.minutes - counters.elapsed_s / 60):.1f} min left"
        print(
            f"step {counters.step}  {counters.tokens / 1e6:.2f} M tokens{speed}  "
            f"train {train:.3f}  held out {held_out:.3f} nats  {self.progress:.0%}{left}",
            file=sys.stderr,
            flush=True,
        )
