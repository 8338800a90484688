"""F0 proxies of each sub-layer: block influence, and sensitivity to dropping, to low bits and to fewer neurons.

Knows nothing of time or search. Block influence is 1 - mean cosine of the residual stream before and after a
sub-layer (ShortGPT, 2403.03853). Sensitivity is the mean KL divergence of the target's next-token distribution
from the one with that sub-layer alone changed: smoother than agreement on a small batch, and in its units
comparable over kinds and bit-widths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from autodraft.measure.agreement import AgreementMeter
from autodraft.policy import ChannelShares, DraftPolicy


@torch.inference_mode()
def block_influence(meter: AgreementMeter, most_windows: int | None = None) -> list[float]:
    """1 - mean cosine similarity of the residual stream around each sub-layer. [2 * blocks]"""
    cache, batches = meter.target_rows(most_windows)
    totals = torch.zeros(2 * meter.runtime.spec.num_blocks, dtype=torch.float64)
    count = 0
    for rows in batches:
        stream = meter.runtime.hidden_states(cache, rows)  # [2 * blocks + 1, n, hidden]
        cosine = torch.nn.functional.cosine_similarity(stream[:-1], stream[1:], dim=-1)
        totals += (1.0 - cosine.double()).sum(dim=1).cpu()
        count += len(rows)
    return [float(total / count) for total in totals]


def sensitivity(
    meter: AgreementMeter,
    bits: Sequence[int],
    *,
    most_windows: int = 16,
    on_step: Callable[[int, int], None] | None = None,
) -> dict[int, list[float]]:
    """bits (0: dropped) -> mean KL divergence when that sub-layer alone runs at these bits. [2 * blocks] each"""
    sub_layers = range(2 * meter.runtime.spec.num_blocks)
    wanted = {width: ChannelShares.all_at(width) for width in bits}
    return _losses_alone(meter, wanted, sub_layers, most_windows, on_step)


def narrowing(
    meter: AgreementMeter,
    kept_units: Sequence[int],
    *,
    most_windows: int = 16,
    on_step: Callable[[int, int], None] | None = None,
) -> dict[int, list[float]]:
    """sixteenths -> mean KL divergence when that MLP alone keeps only its most important neurons. [blocks] each"""
    mlps = range(1, 2 * meter.runtime.spec.num_blocks, 2)
    wanted = {units: ChannelShares(full=units) for units in kept_units}
    return _losses_alone(meter, wanted, mlps, most_windows, on_step)


def _losses_alone(
    meter: AgreementMeter,
    wanted: Mapping[int, ChannelShares],
    sub_layers: Sequence[int],
    most_windows: int,
    on_step: Callable[[int, int], None] | None,
) -> dict[int, list[float]]:
    """By the keys of `wanted`: the divergence when a sub-layer alone has these shares, for each sub-layer."""
    full = DraftPolicy.uniform(meter.runtime.spec.num_blocks)
    reference = _log_probabilities(meter, full, most_windows)
    losses: dict[int, list[float]] = {key: [] for key in wanted}
    steps = [(key, index) for key in wanted for index in sub_layers]
    for number, (key, index) in enumerate(steps):
        changed = full.replace({index: wanted[key]})
        losses[key].append(_divergence(reference, _log_probabilities(meter, changed, most_windows)))
        if on_step is not None:
            on_step(number + 1, len(steps))
    return losses


def _log_probabilities(meter: AgreementMeter, policy: DraftPolicy, most_windows: int) -> list[Tensor]:
    return [logits.log_softmax(dim=-1) for logits, _ in meter.logits(policy, most_windows)]


@torch.inference_mode()
def _divergence(reference: list[Tensor], other: list[Tensor]) -> float:
    total = sum(
        float((expected.exp() * (expected - found)).sum()) for expected, found in zip(reference, other, strict=True)
    )
    return max(total / sum(len(expected) for expected in reference), 0.0)
