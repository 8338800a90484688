"""What a refitted model or draft is trained to do, and how well it does it: distances to the target's distributions.

Knows logits and tokens, not how they come about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 4
Logits = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Tokens [batch, tokens] -> (student's, target's) logits, each float32 [batch, tokens, vocab]."""


@dataclass(frozen=True)
class Quality:
    """Held-out figures of a student.

    Attributes:
        loss: cross-entropy of the text, nats per token.
        divergence: KL divergence from the target's next-token distribution, nats per token.
        top1_agreement: share of positions at which both find the same token most likely.
    """

    loss: float
    divergence: float
    top1_agreement: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def distillation_loss(logits: Tensor, target_logits: Tensor, labels: Tensor, label_weight: float) -> Tensor:
    """KL divergence from the target plus `label_weight` times cross-entropy of `labels` [batch, tokens]; nats/token."""
    log_probs = logits.log_softmax(dim=-1)
    divergence = F.kl_div(log_probs, target_logits.log_softmax(dim=-1), log_target=True, reduction="sum")
    loss = divergence / labels.numel()
    if label_weight:
        loss = loss + label_weight * F.nll_loss(log_probs.flatten(0, 1), labels.flatten())
    return loss


@torch.no_grad()
def held_out_quality(both: Logits, windows: Tensor) -> Quality:
    """Figures over `windows` [count, tokens + 1]."""
    return _mean([_quality(*both(rows[:, :-1]), rows[:, 1:]) for rows in windows.split(ROWS)], windows.split(ROWS))


def _quality(logits: Tensor, target_logits: Tensor, labels: Tensor) -> Quality:
    agreement = (logits.argmax(dim=-1) == target_logits.argmax(dim=-1)).double().mean()
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    return Quality(float(loss), float(distillation_loss(logits, target_logits, labels, 0.0)), float(agreement))


def _mean(parts: list[Quality], batches: Iterable[Tensor]) -> Quality:
    counts = [len(batch) for batch in batches]
    total = sum(counts)
    return Quality(
        *(
            sum(getattr(part, name) * count for part, count in zip(parts, counts, strict=True)) / total
            for name in ("loss", "divergence", "top1_agreement")
        )
    )
