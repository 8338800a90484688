"""The training that removes sub-layers and refits the rest, resumable at every checkpoint.

Two stages. Under the penalty, gates and matrices learn together until only so many gates are open; the other sub-layers
are removed. Then the remaining matrices are refitted, where a draft is to have fewer neurons from what was fitted in
closed form. Both learn the unchanged target's distributions. Knows nothing of files other than its checkpoint, and
nothing of what is exported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from math import isfinite, log
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from autodraft.errors import TrainingError
from autodraft.fitting.sub_layers import DRAFT_WINDOW, DraftView, SubLayers
from autodraft.policy import FULL_BITS
from autodraft.runtime.draft_weights import target_matrices
from autodraft.runtime.precision import fast_precision
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.weights import TargetWeights
from autodraft.training import checkpoint
from autodraft.training.distill import Quality, distillation_loss, held_out_quality
from autodraft.training.gates import Gates
from autodraft.training.muon import Muon
from autodraft.training.narrowing import Narrowing
from autodraft.training.optim import lr_share
from autodraft.training.texts import TextStreams

PENALTY_SHARE = 0.4
"""Part of the steps in which the gates close; the others refit."""

_HELD_OUT_WINDOWS = 32
_CHECKPOINT_EVERY_S = 30.0
_MOST_LOSS = 2.0  # times that of a uniform guess
_WORSE = 0.1  # nats per token that a refit may lose against the pruned model it began with


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result.

    Attributes:
        num_kept: sub-layers that stay.
        kept: which ones, where that is decided already; there is no stage under the penalty then.
        as_draft: whether the student sees the target's keys and values, as a draft does.
        learning_rate: highest one of the matrices.
        label_weight: weight of the text's own tokens beside the target's distributions.
        bits: bit-width that the student's matrices are rounded to while they learn.
        narrow: what is kept, as a string, where MLPs keep only a part of their neurons.
        identity: what names target and text.
    """

    num_kept: int
    kept: tuple[int, ...] | None
    as_draft: bool
    steps: int
    learning_rate: float
    tokens_per_step: int
    window_tokens: int
    seed: int
    identity: str
    label_weight: float = 0.0
    bits: int = FULL_BITS
    narrow: str | None = None
    warmup_share: float = 0.02
    final_lr_share: float = 0.05

    @property
    def penalty_steps(self) -> int:
        return 0 if self.kept is not None else max(1, round(PENALTY_SHARE * self.steps))


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training is: stage, steps done of `total`, open gates, running loss, and seconds to go as it seems."""

    stage: Literal["penalty", "refit"]
    step: int
    total: int
    num_open: int
    loss: float
    seconds_left: float


class Sparsifier:
    """One run in one folder. `run()` continues whatever the folder's checkpoint says.

    Args:
        spec, weights: the target.
        streams: the text.
        recipe: what is done.
        folder: of the checkpoint.
        on_progress: called after every step.
        begin: makes what the refit begins with; None: the target's matrices, or those of the stage before. Zero columns
            of a map out of an MLP are neurons that are gone.

    Attributes:
        step: steps done.
        kept: sub-layers that still run, numbered 2 * block + (0 attention, 1 MLP).
        qualities: held-out figures "before", "after removal" and "after refit", as far as the run has come.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: TargetWeights,
        streams: TextStreams,
        recipe: Recipe,
        folder: Path,
        on_progress: Callable[[TrainingProgress], None] | None = None,
        begin: Callable[[], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.recipe, self.step = recipe, 0
        self._begin, self._narrowing = begin, Narrowing()
        self.qualities: dict[str, Quality] = {}
        self._spec, self._weights, self._streams, self._folder = spec, weights, streams, folder
        self._device = weights.embedding.device
        self._on_progress = on_progress or (lambda progress: None)
        self._target = SubLayers(spec, weights, {})
        self._held_out = streams.held_out_windows(_HELD_OUT_WINDOWS, recipe.window_tokens).to(self._device)
        self._gates = Gates.opened(spec.num_sub_layers, self._device)
        self._running_loss = 0.0
        self._set_matrices(target_matrices(weights, spec, set(range(spec.num_sub_layers))), range(spec.num_sub_layers))
        self._restore()

    @property
    def matrices(self) -> dict[str, Tensor]:
        """Of what is kept, float32, by the names of `matrix_name`, in the target's shapes."""
        return self._narrowing.spread(self._learned, self._spec.intermediate_size)

    @property
    def stage(self) -> Literal["penalty", "refit"]:
        return "refit" if "after removal" in self.qualities else "penalty"

    def run(self, max_steps: int | None = None) -> None:
        """Train until the last step, or for `max_steps` more; leaves a checkpoint behind.

        Raises:
            TrainingError: the loss diverged; the last checkpoint is kept.
        """
        last = self.recipe.steps if max_steps is None else min(self.recipe.steps, self.step + max_steps)
        if "before" not in self.qualities:
            self.qualities["before"] = self.quality()
        if self.recipe.kept is not None and self.stage == "penalty":
            self._remove(self.recipe.kept)
        started, first, saved_at = time.monotonic(), self.step, time.monotonic()
        while self.step < last:
            self._train()
            if time.monotonic() - saved_at >= _CHECKPOINT_EVERY_S:
                self.save()
                saved_at = time.monotonic()
            seconds = (time.monotonic() - started) / (self.step - first) * (self.recipe.steps - self.step)
            self._on_progress(
                TrainingProgress(self.stage, self.step, self.recipe.steps, self.num_open, self._running_loss, seconds)
            )
        if self.step == self.recipe.steps and "after refit" not in self.qualities:
            self._finish()
        self.save()

    def _finish(self) -> None:
        quality, pruned = self.quality(), self.qualities["after removal"]
        if quality.divergence > pruned.divergence + _WORSE:
            raise self._diverged(quality.divergence)
        self.qualities["after refit"] = quality

    @property
    def num_open(self) -> int:
        """Sub-layers whose gate is not closed."""
        return self._gates.num_open if self.stage == "penalty" else len(self.kept)

    def quality(self) -> Quality:
        """Held-out figures of what the run has now."""
        return held_out_quality(lambda tokens: self._both(tokens, 0), self._held_out)

    def save(self) -> None:
        """Write the checkpoint."""
        state: dict[str, Any] = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "kept": sorted(self.kept),
            "gates": asdict(self._gates),
            "matrices": {name: matrix.detach() for name, matrix in self._learned.items()},
            "neurons": dict(self._narrowing.neurons),
            "optimiser": self._optimiser.state_dict(),
            "running_loss": self._running_loss,
            "qualities": {name: quality.to_json() for name, quality in self.qualities.items()},
        }
        checkpoint.save(self._folder, state)

    def _restore(self) -> None:
        state = checkpoint.load(self._folder)
        if state is None:
            return
        checkpoint.check_settings(self._folder, state["recipe"], asdict(self.recipe))
        self.step, self._running_loss = state["step"], state["running_loss"]
        self._gates = Gates(*(tensor.to(self._device) for tensor in state["gates"].values()))
        self.qualities = {name: Quality(**figures) for name, figures in state["qualities"].items()}
        neurons = {block: numbers.to(self._device) for block, numbers in state.get("neurons", {}).items()}
        self._narrowing = Narrowing(neurons)
        self._set_matrices(state["matrices"], state["kept"])
        self._optimiser.load_state_dict(state["optimiser"])

    def _set_matrices(self, matrices: dict[str, Tensor], kept: Collection[int]) -> None:
        """Train these matrices, which are dense, from now on, with a fresh optimiser."""
        self.kept = frozenset(kept)
        self._learned = {
            name: nn.Parameter(matrix.to(self._device, torch.float32, copy=True)) for name, matrix in matrices.items()
        }
        skipped = set(range(self._spec.num_sub_layers)) - self.kept
        weights = self._narrowing.biases_of(self._weights)
        self._student = SubLayers(self._spec, weights, self._learned, skipped, self.recipe.bits)
        precision = fast_precision(torch.bfloat16, self._device)
        self._optimiser = Muon(self._learned.values(), self.recipe.learning_rate, precision)

    def _both(self, tokens: Tensor, offset: int, gates: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Student's and target's logits; a draft's windows begin after `offset` positions."""
        with torch.no_grad():
            target_logits, keys = self._target.logits_and_keys(tokens)
        view = None
        if self.recipe.as_draft:
            view = DraftView.windowed(keys, tokens.shape[1], DRAFT_WINDOW, offset)
        return self._student.logits(tokens, gates=gates, view=view), target_logits

    def _train(self) -> None:
        """One step, and the removal after the last one under the penalty."""
        recipe, under_penalty = self.recipe, self.stage == "penalty"
        count = recipe.tokens_per_step // recipe.window_tokens
        windows = self._streams.windows(count, recipe.window_tokens, recipe.seed, self.step).to(self._device)
        gates = None
        if under_penalty:
            gates = self._gates.sample(count, recipe.seed, self.step).requires_grad_()
        logits, target_logits = self._both(windows[:, :-1], self.step % DRAFT_WINDOW, gates)
        loss = distillation_loss(logits, target_logits, windows[:, 1:], recipe.label_weight)
        self._check(float(loss.detach()))
        loss.backward()
        share = lr_share(self.step / self.recipe.steps, self.recipe)
        self._optimiser.descend(self.recipe.learning_rate * share)
        self.step += 1
        if gates is not None and gates.grad is not None:
            self._close_gates(gates.grad.sum(dim=0))

    def _check(self, loss: float) -> None:
        if not isfinite(loss) or loss > _MOST_LOSS * log(self._spec.vocab_size):
            raise self._diverged(loss)
        self._running_loss = loss if not self._running_loss else 0.95 * self._running_loss + 0.05 * loss

    def _diverged(self, loss: float) -> TrainingError:
        return TrainingError(
            f"the training diverged by step {self.step} (loss {loss:.3g}); the last good checkpoint is kept in"
            f" {self._folder}: choose another --output and --set learning_rate to less than"
            f" {self.recipe.learning_rate:g}"
        )

    def _close_gates(self, gradient: Tensor) -> None:
        recipe = self.recipe
        self._gates = self._gates.descend(gradient, self.step, recipe.penalty_steps, recipe.num_kept)
        if self.step == recipe.penalty_steps:
            self._remove(self._gates.largest(recipe.num_kept))

    def _remove(self, kept: Collection[int]) -> None:
        """Only `kept` runs from now on."""
        remaining = target_matrices(self._weights, self._spec, set(kept))
        matrices = {name: self._learned[name].detach() for name in remaining}
        if self._begin is not None:
            matrices |= self._begin()
            self._narrowing = Narrowing.of(matrices, self._spec.num_blocks)
        self._set_matrices(self._narrowing.dense(matrices), kept)
        self.qualities["after removal"] = self.quality()
