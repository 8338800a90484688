"""`RouterTrainer`: teaches a router on the target's continuations, resumable at every checkpoint.

The target is unchanged: it is distilled into routes, not into weights. What a step does depends on its number, the seed
and what the step before left, so a resumed training is the uninterrupted one. Knows nothing of command lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autodraft.errors import InputError, TrainingError
from autodraft.runtime.routed import RoutedForward
from autodraft.runtime.routing import RouteGraph, Router
from autodraft.training import checkpoint
from autodraft.training.radial.continuations import Continuations, Trial
from autodraft.training.radial.evaluate import RouteScore, node_costs, score_router
from autodraft.training.radial.learner import RouteLearner, Sampler
from autodraft.training.radial.thrift import with_mean_cost

_APPROACH = 0.4  # share of the steps in which the aimed cost falls from that of the start to the wanted one
_MATCH_WEIGHT = 0.9  # of choosing the target's token in a score; the rest is its probability
_NUM_EVALUATIONS = 10
_CHECKPOINT_EVERY_S = 30.0


@dataclass(frozen=True)
class RouterRecipe:
    """Everything that decides the result.

    Attributes:
        cost: mean share of the blocks' weights that a token may run.
        width: hidden units of the router.
        start: nodes of the first route.
        steps: improvements.
        rows_per_step: tokens whose routes are tried in each.
        identity: names target and text.
    """

    cost: float
    unit: str
    reuse: int
    most_steps: int
    width: int
    start: tuple[int, ...]
    steps: int
    rows_per_step: int
    seed: int
    identity: str


@dataclass(frozen=True)
class RouterProgress:
    """Where a training is: step of `total`, mean cost and agreement of the last sampled routes, the price."""

    step: int
    total: int
    cost: float
    agreement: float
    price: float
    seconds_left: float


class RouterTrainer:
    """One training in one folder; `run` continues whatever the folder's checkpoint says.

    Attributes:
        step: steps done.
        curve: held-out scores so far: {"step", "price", ..`RouteScore`}.
    """

    def __init__(
        self,
        training: Continuations,
        held_out: Continuations,
        recipe: RouterRecipe,
        folder: Path,
        on_progress: Callable[[RouterProgress], None] | None = None,
        on_score: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.recipe, self.step = recipe, 0
        self.curve: list[dict[str, Any]] = []
        self._training, self._held_out, self._folder = training, held_out, folder
        self._on_progress, self._on_score = on_progress or (lambda _: None), on_score or (lambda _: None)
        spec = training.runtime.spec
        graph = RouteGraph(spec.num_sub_layers, recipe.unit, recipe.reuse, recipe.most_steps)
        self._costs = node_costs(spec, graph)
        start = Router.along(graph, recipe.start, spec.hidden_size, recipe.width, seed=recipe.seed)
        self._start_cost = float(self._costs[list(recipe.start)].sum())
        self._learner = RouteLearner(start, self._costs)
        self._routed = RoutedForward(training.runtime, graph)
        self._restore()

    @property
    def router(self) -> Router:
        return self._learner.router

    def run(self, max_steps: int | None = None) -> None:
        """Train to the last step, or for `max_steps` more; leaves a checkpoint behind.

        Raises:
            TrainingError: the training diverged; the last good checkpoint is kept.
        """
        last = self.recipe.steps if max_steps is None else min(self.recipe.steps, self.step + max_steps)
        started, first, saved_at = time.monotonic(), self.step, time.monotonic()
        while self.step < last:
            cost, agreement = self._train()
            seconds = (time.monotonic() - started) / (self.step - first) * (self.recipe.steps - self.step)
            price = self._learner.price
            self._on_progress(RouterProgress(self.step, self.recipe.steps, cost, agreement, price, seconds))
            if self.step % max(1, self.recipe.steps // _NUM_EVALUATIONS) == 0 or self.step == self.recipe.steps:
                self._evaluate()
            if time.monotonic() - saved_at >= _CHECKPOINT_EVERY_S:
                self.save()
                saved_at = time.monotonic()
        self.save()

    def finished(self) -> tuple[Router, RouteScore]:
        """The router with its likeliest routes at the wanted mean cost, and its held-out score.

        Raises:
            TrainingError: no shift of its preferences brings the mean cost there.
        """
        router = with_mean_cost(self.router, self._training, self._costs, self.recipe.cost)
        return router, score_router(self._held_out, router)

    def _train(self) -> tuple[float, float]:
        trial = self._trial()
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.step)
        sampler = Sampler(self.router, generator)
        runtime, cache = self._training.runtime, self._training.cache
        passage = self._routed.run(cache, trial.rows, sampler)
        logits = runtime.logits(runtime.target, cache, trial.rows, passage.stream).cpu()
        matches = (logits.argmax(-1) == trial.wanted).float()
        chances = torch.softmax(logits, -1).gather(1, trial.wanted[:, None])[:, 0]
        scores = _MATCH_WEIGHT * matches + (1.0 - _MATCH_WEIGHT) * chances
        progress = self.step / self.recipe.steps
        loss = self._learner.learn(sampler.decisions, scores.clone(), passage.runs, self._aim(progress), progress)
        if not (isfinite(loss) and self._learner.is_finite):
            raise TrainingError(f"the training diverged at step {self.step}; its last good checkpoint is kept")
        self.step += 1
        return float((passage.runs.float() @ self._costs).mean()), float(matches.mean())

    def _trial(self) -> Trial:
        """A step's rows: every second position of some sequences."""
        draws, rows = np.random.default_rng((self.recipe.seed, self.step)), self.recipe.rows_per_step
        count = min(len(self._training), max(1, round(2 * rows / self._training.positions)))
        chosen = sorted(draws.choice(len(self._training), count, replace=False).tolist())
        return self._training.trial(chosen, stride=2, offset=int(draws.integers(2)))

    def _aim(self, progress: float) -> float:
        return max(self.recipe.cost, self._start_cost - (self._start_cost - self.recipe.cost) * progress / _APPROACH)

    def _evaluate(self) -> None:
        score = score_router(self._held_out, self.router)
        self.curve.append({"step": self.step, "price": self._learner.price, **score.to_json()})
        self._on_score(self.curve[-1])

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "curve": self.curve,
            "learner": self._learner.state(),
        }
        checkpoint.save(self._folder, state)

    def _restore(self) -> None:
        state = checkpoint.load(self._folder)
        if state is None:
            return
        if state["recipe"] != asdict(self.recipe):
            raise InputError(f"{self._folder} holds a training with other settings; choose another --output")
        self.step, self.curve = state["step"], state["curve"]
        self._learner.restore(state["learner"])
