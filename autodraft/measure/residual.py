"""The residual profile of a target: how much each sub-layer contributes to its own output, token by token.

After Radial Networks (Dotzel et al., arXiv 2404.04900): the ratio ||f(x)|| / ||x + f(x)|| of the norm of what the
branch adds to the norm of the residual stream after it. Small ratios at most tokens say that the sub-layer is nearly
always dispensable, wide spreads that it is at some tokens: what a router could use and a fixed policy cannot. Knows
nothing of time or search.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from autodraft.measure.agreement import AgreementMeter
from autodraft.policy import SUB_LAYER_KINDS


@dataclass(frozen=True)
class Contribution:
    """The ratio at one sub-layer over all tokens: quartiles, and the ratio of nine tenths of them at most."""

    block: int
    kind: str
    low: float
    median: float
    high: float
    ninth_decile: float


@dataclass(frozen=True)
class ResidualProfile:
    """Contributions by sub-layer, attention and MLP of each block in turn.

    Attributes:
        num_tokens: positions that were looked at.
        trend: Spearman's rank correlation of depth and median, by kind of sub-layer; negative where contributions fall.
    """

    contributions: tuple[Contribution, ...]
    num_tokens: int
    trend: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@torch.inference_mode()
def residual_ratios(meter: AgreementMeter, most_windows: int | None = None) -> Tensor:
    """||f(x)|| / ||x + f(x)|| of every sub-layer at every position. float32 [2 * blocks, tokens]"""
    cache, batches = meter.target_rows(most_windows)
    ratios = []
    for rows in batches:
        stream = meter.runtime.hidden_states(cache, rows)  # [2 * blocks + 1, n, hidden]
        ratios.append((stream[1:] - stream[:-1]).norm(dim=-1) / stream[1:].norm(dim=-1).clamp_min(1e-12))
    return torch.cat(ratios, dim=1).cpu()


def residual_profile(ratios: Tensor) -> ResidualProfile:
    """Quartiles and trends of what `residual_ratios` measured."""
    points = torch.tensor([0.25, 0.5, 0.75, 0.9])
    quantiles = ratios.quantile(points, dim=1).T.tolist()  # [2 * blocks, 4]
    contributions = tuple(
        Contribution(index // 2, SUB_LAYER_KINDS[index % 2], *row) for index, row in enumerate(quantiles)
    )
    trend: dict[str, float] = {
        kind: _rank_correlation([part.median for part in contributions if part.kind == kind])
        for kind in SUB_LAYER_KINDS
    }
    return ResidualProfile(contributions, ratios.shape[1], trend)


def _rank_correlation(medians: list[float]) -> float:
    """Spearman's with depth; 0 for a single block."""
    if len(medians) < 2:
        return 0.0
    ranks = torch.tensor(medians).argsort().argsort().double()
    depths = torch.arange(len(medians)).double()
    return float(torch.corrcoef(torch.stack((depths, ranks)))[0, 1])
