"""Optimisers and the learning-rate schedule of the reference model.

Muon on the matrices of the blocks, AdamW on embeddings and norms. Knows parameters and progress,
not data or clocks.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import nn

from autodraft.training.config import TrainConfig


class Schedule(Protocol):
    """What decides the learning rate over a run."""

    @property
    def warmup_share(self) -> float: ...

    @property
    def final_lr_share(self) -> float: ...


def lr_share(progress: float, config: Schedule) -> float:
    """Share of the peak learning rate at `progress` in [0, 1]: linear warm-up, then cosine."""
    if progress < config.warmup_share:
        return max(progress / config.warmup_share, 0.02)
    done = min(1.0, (progress - config.warmup_share) / (1.0 - config.warmup_share))
    return config.final_lr_share + (1.0 - config.final_lr_share) * 0.5 * (1.0 + math.cos(math.pi * done))


class Optimisers:
    """Both optimisers behind one step."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            is_matrix = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
            (matrices if is_matrix else others).append(parameter)
        self._config = config
        self._parameters = [*matrices, *others]
        self._muon = torch.optim.Muon(
            matrices, lr=config.matrix_lr, weight_decay=config.matrix_weight_decay, momentum=0.95
        )
        self._adamw = torch.optim.AdamW(others, lr=config.other_lr, betas=(0.9, 0.95), weight_decay=0.0)

    def step(self, progress: float) -> None:
        """Apply the gradients at the learning rates due at `progress`, then clear them."""
        share = lr_share(progress, self._config)
        torch.nn.utils.clip_grad_norm_(self._parameters, self._config.grad_clip)
        for optimiser, peak in ((self._muon, self._config.matrix_lr), (self._adamw, self._config.other_lr)):
            for group in optimiser.param_groups:
                group["lr"] = peak * share
            optimiser.step()  # type: ignore[no-untyped-call]
            optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, object]:
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def restore(self, state: dict[str, object]) -> None:
        self._muon.load_state_dict(state["muon"])  # type: ignore[arg-type]
        self._adamw.load_state_dict(state["adamw"])  # type: ignore[arg-type]
