"""What a trained model is worth: held-out loss, and how well it agrees with itself in part.

Knows the forward pass and windows of held-out text, not how the model was trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autodraft.training.forward import SublayerForward

SKIP_COUNTS = (2, 4, 8, 12, 16)
ROWS = 4


@torch.no_grad()
def held_out_loss(forward: SublayerForward, windows: Tensor) -> float:
    """Mean loss in nats per token over `windows` `[count, tokens + 1]`."""
    total = 0.0
    for rows in torch.split(windows, ROWS):
        total += float(forward.loss(rows)) * len(rows)
    return total / len(windows)


@torch.no_grad()
def block_influence(forward: SublayerForward, inputs: Tensor) -> list[float]:
    """Per sub-layer, the mean of 1 - cos(residual before, residual after): small means dispensable."""
    x = torch.nn.functional.embedding(inputs, forward.model.model.embed_tokens.weight)
    influence = []
    for sublayer in range(forward.shape.num_sublayers):
        after = x + forward.branch(x, sublayer)
        influence.append(float(1.0 - torch.cosine_similarity(x, after, dim=-1).mean()))
        x = after
    return influence


@torch.no_grad()
def most_likely(forward: SublayerForward, inputs: Tensor, skipped: Sequence[int] = ()) -> Tensor:
    """The most likely next token at every position of `inputs`, `[count, tokens]`."""
    return torch.cat([forward.logits(rows, skipped).argmax(-1) for rows in torch.split(inputs, ROWS)])


def self_agreement_curve(forward: SublayerForward, choose_on: Tensor, judge_on: Tensor) -> dict[str, float]:
    """Top-1 agreement with the full model when the least influential 2, 4, 8, 12, 16 sub-layers are skipped.

    Sub-layers are ranked on `choose_on` and judged on `judge_on`, both `[count, tokens]`.
    """
    influence = block_influence(forward, choose_on)
    ranked = sorted(range(len(influence)), key=influence.__getitem__)
    full = most_likely(forward, judge_on)
    curve = {}
    for count in (count for count in SKIP_COUNTS if count < len(ranked)):
        agrees = full == most_likely(forward, judge_on, ranked[:count])
        curve[str(count)] = round(float(agrees.float().mean()), 4)
    return curve
