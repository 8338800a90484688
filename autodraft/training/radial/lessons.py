"""What a router learns from in one step: sampled routes, what they were worth, and blocks that learn with it or do not.

Knows nothing of how a router improves, of checkpoints or of progress. `FixedBlocks` tries routes on the target's own
continuations; its blocks stay as they are. `TrainedBlocks` tries them on text and lets the blocks learn on the routes
that were drawn, so that each becomes good at what it is asked for: the joint distillation of Radial Networks (Dotzel et
al., arXiv 2404.04900).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from autodraft.fitting.sub_layers import DraftView, SubLayers
from autodraft.policy import DraftPolicy
from autodraft.runtime import ModelSpec, TransformerRuntime
from autodraft.runtime.draft_weights import DraftWeights, target_matrices
from autodraft.runtime.plan import DraftPlan
from autodraft.runtime.precision import fast_precision
from autodraft.runtime.routed import RoutedForward
from autodraft.runtime.weights import TargetWeights
from autodraft.training.distill import distillation_loss
from autodraft.training.muon import Muon
from autodraft.training.optim import lr_share
from autodraft.training.radial.continuations import Continuations, Trial
from autodraft.training.radial.learner import Sampler
from autodraft.training.radial.recipe import RouterRecipe
from autodraft.training.radial.routed_sub_layers import RoutedSubLayers
from autodraft.training.texts import TextStreams

DRAFT_WINDOW = 8
"""Positions of a draft between two verifications, in the training of blocks."""

WINDOW_TOKENS = 256
_MATCH_WEIGHT = 0.9  # of choosing the target's token in a score; the rest is its probability


@dataclass(frozen=True)
class Outcome:
    """What the routes of one step came to.

    Attributes:
        scores: worth of each row's output, without its cost. [n]
        matches: whether the target's token was chosen. float [n]
        runs: how often each row ran each node. [n, num_nodes]
        loss: of the blocks; 0 where they do not learn.
    """

    scores: Tensor
    matches: Tensor
    runs: Tensor
    loss: float = 0.0


class Lesson(Protocol):
    """Blocks that routes are tried on."""

    @property
    def blocks(self) -> DraftPlan:
        """The blocks as they are now, for the runtime that judges routers."""

    def tried(self, sampler: Sampler, step: int) -> Outcome:
        """The routes that `sampler` draws for the rows of this step."""

    def improve(self, progress: float) -> None:
        """Let the blocks learn from the routes tried last; `progress` is the share of the training done."""

    def state(self) -> dict[str, Any]:
        """Everything that goes on in a resumed training."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""


class FixedBlocks:
    """The target's blocks at a bit-width, tried on its own continuations.

    Args:
        training: the continuations.
        recipe: says how many rows are tried in a step, on what kind of routes, and at which bit-width.
    """

    def __init__(self, training: Continuations, recipe: RouterRecipe) -> None:
        self._training, self._recipe = training, recipe
        runtime = training.runtime
        self.blocks = runtime.plan(DraftPolicy.uniform(runtime.spec.num_blocks, recipe.bits))
        self._routed = RoutedForward(runtime, recipe.graph(runtime.spec.num_sub_layers), blocks=self.blocks)

    def tried(self, sampler: Sampler, step: int) -> Outcome:
        trial, cache = self._trial(step), self._training.cache
        passage = self._routed.run(cache, trial.rows, sampler)
        logits = self._training.runtime.logits(self.blocks, cache, trial.rows, passage.stream).cpu()
        return Outcome(*_worth(logits, trial.wanted), passage.runs)

    def _trial(self, step: int) -> Trial:
        """A step's rows: every second position of some sequences."""
        draws, rows = np.random.default_rng((self._recipe.seed, step)), self._recipe.rows_per_step
        count = min(len(self._training), max(1, round(2 * rows / self._training.positions)))
        chosen = sorted(draws.choice(len(self._training), count, replace=False).tolist())
        return self._training.trial(chosen, stride=2, offset=int(draws.integers(2)))

    def improve(self, progress: float) -> None:
        """They stay as they are."""

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


class TrainedBlocks:
    """Blocks that start as the target's and learn its distributions on the routes that are drawn.

    A draft sees the target's keys before its window, and of its own those of the tokens that ran the block.

    Args:
        runtime: judges routers; of the same target.
        spec, weights: the target in a precision to train in.
        streams: the text.
        recipe: kind of routes, rows of a step, bit-width and step size.

    Attributes:
        matrices: of all blocks, float32.
    """

    def __init__(
        self,
        runtime: TransformerRuntime,
        spec: ModelSpec,
        weights: TargetWeights,
        streams: TextStreams,
        recipe: RouterRecipe,
    ) -> None:
        self._runtime, self._streams, self._recipe = runtime, streams, recipe
        self._graph = recipe.graph(spec.num_sub_layers)
        self._device, self._target = weights.embedding.device, SubLayers(spec, weights, {})
        own = target_matrices(weights, spec, set(range(spec.num_sub_layers)))
        self.matrices = {name: nn.Parameter(matrix.to(torch.float32, copy=True)) for name, matrix in own.items()}
        self._student = RoutedSubLayers(spec, weights, self.matrices, bits=recipe.bits)
        precision = fast_precision(torch.bfloat16, self._device)
        self._optimiser = Muon(self.matrices.values(), recipe.learning_rate, precision)
        self._loss = torch.zeros(())

    @property
    def blocks(self) -> DraftPlan:
        dtype, device = self._runtime.dtype, self._runtime.device
        matrices = {name: matrix.detach().to(device, dtype) for name, matrix in self.matrices.items()}
        policy = DraftPolicy.uniform(self._runtime.spec.num_blocks, self._recipe.bits)
        return self._runtime.compiled(policy, DraftWeights.unsaved(matrices))

    def tried(self, sampler: Sampler, step: int) -> Outcome:
        count = max(1, self._recipe.rows_per_step // WINDOW_TOKENS)
        windows = self._streams.windows(count, WINDOW_TOKENS, self._recipe.seed, step).to(self._device)
        tokens = windows[:, :-1]
        with torch.no_grad():
            target_logits, keys = self._target.logits_and_keys(tokens)
        view = DraftView.windowed(keys, tokens.shape[1], DRAFT_WINDOW, step % DRAFT_WINDOW)
        logits, runs = self._student.routed(tokens, view, self._graph, sampler)
        self._loss = distillation_loss(logits, target_logits, windows[:, 1:], label_weight=0.0)
        wanted = target_logits.argmax(-1).flatten().cpu()
        return Outcome(*_worth(logits.detach().flatten(0, 1).cpu(), wanted), runs, float(self._loss.detach()))

    def improve(self, progress: float) -> None:
        self._loss.backward()
        self._optimiser.descend(self._recipe.learning_rate * lr_share(progress, self._recipe))

    def state(self) -> dict[str, Any]:
        matrices = {name: matrix.detach() for name, matrix in self.matrices.items()}
        return {"matrices": matrices, "optimiser": self._optimiser.state_dict()}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        for name, matrix in self.matrices.items():
            matrix.copy_(state["matrices"][name])
        self._optimiser.load_state_dict(state["optimiser"])


def _worth(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and matches of rows. [n, vocab], [n] -> [n], [n]"""
    matches = (logits.argmax(-1) == wanted).float()
    chances = torch.softmax(logits, -1).gather(1, wanted[:, None])[:, 0]
    return _MATCH_WEIGHT * matches + (1.0 - _MATCH_WEIGHT) * chances, matches
