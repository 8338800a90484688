"""From a `DraftPolicy` to the matrices it runs: channel order, segments, and `DraftPlan`.

Knows nothing of how a matrix is multiplied. Both backends build their plans out of the `Segment`s here.

The importance criterion is the product of the norms of a channel's weights on its way in and out. It
comes from the checkpoint alone, so a profile needs no list of channels to be reproduced anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from autodraft.policy import FULL_BITS, SUB_LAYER_KINDS, DraftPolicy, SubLayerKind
from autodraft.runtime.byte_planes import PLANE_BITS
from autodraft.runtime.quantization import weight_bytes
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.weights import BlockWeights, Matrix, TargetWeights, joined_matrix


@dataclass(frozen=True)
class Segment:
    """The channels of one sub-layer that run at one bit-width, as one dense matrix pair.

    `start` and `stop` count channels in order of importance; (0, all) is the whole sub-layer.
    """

    block: int
    kind: SubLayerKind
    bits: int
    start: int
    stop: int


@dataclass(frozen=True)
class SegmentWeights:
    """The two matrices of a segment: into the channels ({q,k,v} or {gate,up}) and out of them ({o} or {down}).

    Both are planes, where the segment is whole, or both are tensors. `inputs` rows are [q of all heads; k; v] in
    attention, [gate; up] (or [up]) in an MLP. `channels` are the KV heads, or the neurons, in ascending order.
    """

    channels: Tensor
    inputs: Matrix
    inputs_bias: Tensor | None
    outputs: Matrix


class DraftPlan:
    """A policy compiled for one runtime; `payload` belongs to the backend.

    Args:
        policy, spec: what is compiled, and for which architecture.
        full_bytes: of a weight in the target's precision.
        payload: the backend's.
        silent: sub-layers of the target that add nothing; no plan runs them.
        in_planes: sub-layers whose upper planes are what 8 bits mean.
        owns_weights: whether its sub-layers run on weights of its own in the place of the target's.
        owns_head: whether its head does.

    Attributes:
        extra_bytes: memory that the plan's packed weights add to the target's.
        weight_bytes: weights that one step reads.
    """

    def __init__(
        self,
        policy: DraftPolicy,
        spec: ModelSpec,
        full_bytes: int,
        payload: Any,
        *,
        silent: frozenset[int] = frozenset(),
        in_planes: frozenset[int] = frozenset(),
        owns_weights: bool = False,
        owns_head: bool = False,
    ) -> None:
        self.policy = policy
        self.payload = payload
        self.is_target = policy.is_full and not owns_weights
        segments = list(segments_of(policy, spec, silent))
        sizes = [_segment_bytes(segment, spec, full_bytes) for segment in segments]
        self.weight_bytes = sum(sizes) + weight_bytes(spec.vocab_size, spec.hidden_size, policy.head_bits, full_bytes)
        self.extra_bytes = sum(
            size
            for size, segment in zip(sizes, segments, strict=True)
            if owns_weights or not (is_whole(segment, spec) and segment.bits in _bits_of_target(segment, in_planes))
        )
        if owns_head or policy.head_bits != FULL_BITS:
            self.extra_bytes += weight_bytes(spec.vocab_size, spec.hidden_size, policy.head_bits, full_bytes)


def num_channels(kind: SubLayerKind, spec: ModelSpec) -> int:
    """KV heads of an attention sub-layer, neurons of an MLP."""
    return spec.num_kv_heads if kind == "attention" else spec.intermediate_size


def is_whole(segment: Segment, spec: ModelSpec) -> bool:
    """Whether the segment is its sub-layer with all its channels."""
    return segment.start == 0 and segment.stop == num_channels(segment.kind, spec)


def segments_of(policy: DraftPolicy, spec: ModelSpec, silent: frozenset[int] = frozenset()) -> Iterator[Segment]:
    """All segments of a policy but those of `silent` sub-layers, block by block, attention first, most bits first."""
    for index, shares in enumerate(policy.sub_layers):
        if index not in silent:
            kind = SUB_LAYER_KINDS[index % 2]
            for bits, start, stop in shares.segments(num_channels(kind, spec)):
                yield Segment(index // 2, kind, bits, start, stop)


def _bits_of_target(segment: Segment, in_planes: frozenset[int]) -> tuple[int, ...]:
    """At these, the whole sub-layer is read out of the target's own memory."""
    index = 2 * segment.block + SUB_LAYER_KINDS.index(segment.kind)
    return (FULL_BITS, PLANE_BITS) if index in in_planes else (FULL_BITS,)


def sub_layer_bytes(kind: SubLayerKind, bits: int, spec: ModelSpec, full_bytes: int) -> int:
    """Weights of one whole sub-layer at `bits`."""
    return _segment_bytes(Segment(0, kind, bits, 0, num_channels(kind, spec)), spec, full_bytes)


def _segment_bytes(segment: Segment, spec: ModelSpec, full_bytes: int) -> int:
    channels = segment.stop - segment.start
    if segment.kind == "attention":
        rows, width = channels * (spec.group_size + 2) * spec.head_dim, channels * spec.group_size * spec.head_dim
    else:
        rows, width = channels * (2 if spec.gated else 1), channels
    return weight_bytes(rows, spec.hidden_size, segment.bits, full_bytes) + weight_bytes(
        spec.hidden_size, width, segment.bits, full_bytes
    )


class SegmentSource:
    """Cuts the matrices of segments out of the target's weights."""

    def __init__(self, spec: ModelSpec, weights: TargetWeights) -> None:
        self._spec = spec
        self._weights = weights

    @property
    def silent(self) -> frozenset[int]:
        """Sub-layers that add nothing."""
        return self._weights.silent_sub_layers

    @property
    def in_planes(self) -> frozenset[int]:
        """Sub-layers that are kept in planes."""
        return self._weights.plane_sub_layers

    def segments_of(self, policy: DraftPolicy) -> Iterator[Segment]:
        """All segments of a policy that add anything."""
        return segments_of(policy, self._spec, self.silent)

    @cached_property
    def _orders(self) -> list[dict[SubLayerKind, Tensor]]:
        return [
            {"attention": _head_order(block, self._spec), "mlp": _neuron_order(block)} for block in self._weights.blocks
        ]

    def channels(self, segment: Segment) -> Tensor:
        """Channel numbers of the segment, ascending."""
        if is_whole(segment, self._spec):
            return torch.arange(segment.stop)
        return self._orders[segment.block][segment.kind][segment.start : segment.stop].sort().values

    def weights_of(self, segment: Segment) -> SegmentWeights:
        """Matrices of the segment at the target's precision (quantizing is the backend's)."""
        block = self._weights.blocks[segment.block]
        channels = self.channels(segment).to(self._weights.embedding.device)
        if segment.kind == "attention":
            head_dim, group = self._spec.head_dim, self._spec.group_size
            query_heads = (channels[:, None] * group + torch.arange(group, device=channels.device)).flatten()
            query_rows, key_rows = _rows_of_heads(query_heads, head_dim), _rows_of_heads(channels, head_dim)
            parts = [(block.query, query_rows), (block.key, key_rows), (block.value, key_rows)]
            columns, out = query_rows, block.output
        else:
            parts = [(projection, channels) for projection in (block.gate, block.up) if projection is not None]
            columns, out = channels, block.down
        biases = [projection.bias[rows] for projection, rows in parts if projection.bias is not None]
        bias = torch.cat(biases) if biases else None
        if is_whole(segment, self._spec):
            inputs = joined_matrix([projection.matrix for projection, _ in parts])
            return SegmentWeights(channels, inputs, bias, out.matrix)
        inputs = torch.cat([projection.weight[rows] for projection, rows in parts])
        return SegmentWeights(channels, inputs, bias, out.weight[:, columns])


def _rows_of_heads(heads: Tensor, head_dim: int) -> Tensor:
    return (heads[:, None] * head_dim + torch.arange(head_dim, device=heads.device)).flatten()


def _neuron_order(block: BlockWeights) -> Tensor:
    importance = block.down.weight.float().norm(dim=0) * block.up.weight.float().norm(dim=1)
    if block.gate is not None:
        importance = importance * block.gate.weight.float().norm(dim=1)
    order: Tensor = importance.argsort(descending=True, stable=True)
    return order.cpu()


def _head_order(block: BlockWeights, spec: ModelSpec) -> Tensor:
    """KV heads by the norm of what they can add to the residual stream: value rows times output columns."""
    value = block.value.weight.float().reshape(spec.num_kv_heads, -1).norm(dim=1)
    output = block.output.weight.float().norm(dim=0).view(spec.num_kv_heads, -1).norm(dim=1)
    order: Tensor = (value * output).argsort(descending=True, stable=True)
    return order.cpu()
