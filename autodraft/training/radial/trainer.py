"""`RouterTrainer`: teaches a router on what its lesson tries, resumable at every checkpoint.

What a step does depends on its number, the seed and what the step before left, so a resumed training is the
uninterrupted one. Knows nothing of command lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from autodraft.errors import TrainingError
from autodraft.runtime.plan import DraftPlan
from autodraft.runtime.routing import Router
from autodraft.training import checkpoint
from autodraft.training.radial.continuations import Continuations
from autodraft.training.radial.evaluate import RouteScore, node_costs, score_router
from autodraft.training.radial.learner import RouteLearner, Sampler
from autodraft.training.radial.lessons import FixedBlocks, Lesson
from autodraft.training.radial.recipe import RouterRecipe
from autodraft.training.radial.thrift import with_mean_cost

_APPROACH = 0.4  # share of the steps in which the aimed cost falls from that of the start to the wanted one
_NUM_EVALUATIONS = 10
_CHECKPOINT_EVERY_S = 30.0


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

    Args:
        training, held_out: continuations of the target to meet the cost on, and to be judged on.
        recipe: what is done.
        folder: of the checkpoint.
        on_progress, on_score: called after every step, and with every point of the curve.
        lesson: what routes are tried on; None: the target's blocks on `training`.

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
        lesson: Lesson | None = None,
    ) -> None:
        self.recipe, self.step = recipe, 0
        self.curve: list[dict[str, Any]] = []
        self._training, self._held_out, self._folder = training, held_out, folder
        self._on_progress, self._on_score = on_progress or (lambda _: None), on_score or (lambda _: None)
        spec = training.runtime.spec
        graph = recipe.graph(spec.num_sub_layers)
        self._costs = node_costs(spec, graph)
        start = Router.along(graph, recipe.start, spec.hidden_size, recipe.width, seed=recipe.seed)
        self._start_cost = float(self._costs[list(recipe.start)].sum())
        self._learner = RouteLearner(start, self._costs)
        self._lesson = lesson or FixedBlocks(training, recipe)
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
        """The router with its likeliest routes at the wanted mean cost, and its held-out score with its blocks.

        Raises:
            TrainingError: no shift of its preferences brings the mean cost there.
        """
        blocks = self._lesson.blocks
        router = with_mean_cost(self.router, self._training, self._costs, self.recipe.cost, blocks)
        return router, self._score(router, blocks)

    def _score(self, router: Router, blocks: DraftPlan) -> RouteScore:
        return score_router(self._held_out, router, blocks=blocks)

    def _train(self) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.step)
        sampler = Sampler(self.router, generator)
        outcome = self._lesson.tried(sampler, self.step)
        progress = self.step / self.recipe.steps
        loss = self._learner.learn(sampler.decisions, outcome.scores, outcome.runs, self._aim(progress), progress)
        if not (isfinite(loss) and isfinite(outcome.loss) and self._learner.is_finite):
            raise TrainingError(f"the training diverged at step {self.step}; its last good checkpoint is kept")
        self._lesson.improve(progress)
        self.step += 1
        return float((outcome.runs.float() @ self._costs).mean()), float(outcome.matches.mean())

    def _aim(self, progress: float) -> float:
        return max(self.recipe.cost, self._start_cost - (self._start_cost - self.recipe.cost) * progress / _APPROACH)

    def _evaluate(self) -> None:
        score = self._score(self.router, self._lesson.blocks)
        self.curve.append({"step": self.step, "price": self._learner.price, **score.to_json()})
        self._on_score(self.curve[-1])

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "curve": self.curve,
            "learner": self._learner.state(),
            "lesson": self._lesson.state(),
        }
        checkpoint.save(self._folder, state)

    def _restore(self) -> None:
        state = checkpoint.load(self._folder)
        if state is None:
            return
        checkpoint.check_settings(self._folder, asdict(RouterRecipe(**state["recipe"])), asdict(self.recipe))
        self.step, self.curve = state["step"], state["curve"]
        self._learner.restore(state["learner"])
        self._lesson.restore(state.get("lesson", {}))
