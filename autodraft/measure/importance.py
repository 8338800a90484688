"""F0 proxies of each sub-layer: block influence, and sensitivity to dropping, to low bits and to fewer neurons.

Knows nothing of time or search. Block influence is 1 - mean cosine of the residual stream before and after a
sub-layer (ShortGPT, 2403.03853). Sensitivity is the mean KL divergence of the target's next-token distribution
from the one with that sub-layer alone changed: smoother than agreement on a small batch, and in its units
comparable over kinds and bit-widths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

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


@torch.inference_mode()
def _losses_alone(
    meter: AgreementMeter,
    wanted: Mapping[int, ChannelShares],
    sub_layers: Sequence[int],
    most_windows: int,
    on_step: Callable[[int, int], None] | None,
) -> dict[int, list[float]]:
    """By the keys of `wanted`: the divergence when a sub-layer alone has these shares, for each sub-layer.

    A pass with a changed sub-layer begins there, on the target's own stream: it is the target before. From the last
    sub-layer to the first, it finds the target's keys in the blocks that it does not run.
    """
    runtime = meter.runtime
    full, last = DraftPolicy.uniform(runtime.spec.num_blocks), 2 * runtime.spec.num_blocks
    cache, batches = meter.target_rows(most_windows)
    totals = {key: dict.fromkeys(sub_layers, 0.0) for key in wanted}
    done = 0
    for rows in batches:
        for key, shares in wanted.items():
            streams = runtime.hidden_states(cache, rows)
            expected = runtime.logits(runtime.target, cache, rows, streams[-1]).log_softmax(dim=-1)
            for index in reversed(sub_layers):
                plan = runtime.plan(full.replace({index: shares}))
                stream = runtime.run_sub_layers(plan, cache, rows, streams[index], index, last)
                found = runtime.logits(plan, cache, rows, stream).log_softmax(dim=-1)
                totals[key][index] += float((expected.exp() * (expected - found)).sum())
                done += 1
                if on_step is not None:
                    on_step(done, len(batches) * len(wanted) * len(sub_layers))
    count = sum(map(len, batches))
    return {key: [max(total / count, 0.0) for total in losses.values()] for key, losses in totals.items()}
