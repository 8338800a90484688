"""`PolicyFeatures`: what is known about a target's sub-layers before any draft is tried (fidelity F0).

Knows nothing of weights, clocks or text: figures that were measured elsewhere, and the two additive estimates
that follow from them, the time of a step and the loss of a policy. Sub-layers are numbered 2 * block + (0 attention,
1 MLP), as in `DraftPolicy.sub_layers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from autodraft.errors import PolicyError
from autodraft.policy import (
    BIT_WIDTHS,
    FULL_BITS,
    SHARE_UNITS,
    SUB_LAYER_KINDS,
    ChannelShares,
    DraftPolicy,
    SubLayerKind,
)

_Figure = TypeVar("_Figure", int, float)


@dataclass(frozen=True)
class PolicyFeatures:
    """Proxies and latencies of one target on one device.

    Attributes:
        num_blocks: blocks of the target.
        num_kv_heads: KV heads, because attention shares are whole heads.
        available_bits: bit-widths worth offering here, most precise first; always contains `FULL_BITS`.
        block_influence: 1 - mean cosine of the residual stream before and after each sub-layer. [2 * num_blocks]
        sensitivity: bits -> loss when that sub-layer alone runs at these bits (0: dropped). [2 * num_blocks] each
        narrowing: sixteenths of its most important neurons -> loss when that block's MLP alone keeps no others; empty
            where nobody has asked. [num_blocks] each
        sub_layer_ms: (kind, bits) -> milliseconds that one sub-layer adds to a step over one token.
        base_ms: head bits -> milliseconds of a step without any sub-layer (embedding, head, overhead).
        target_ms: milliseconds of the target's step over one token.
        sub_layer_bytes: (kind, bits) -> weights of one whole sub-layer; empty where nobody has asked for them.
        head_bytes: bits -> weights of the output head; empty likewise.
        plane_sub_layers: those whose 8 bits are the upper bytes of the target's own weights.
    """

    num_blocks: int
    num_kv_heads: int
    available_bits: tuple[int, ...]
    block_influence: tuple[float, ...]
    sensitivity: Mapping[int, tuple[float, ...]]
    sub_layer_ms: Mapping[tuple[SubLayerKind, int], float]
    base_ms: Mapping[int, float]
    target_ms: float
    sub_layer_bytes: Mapping[tuple[SubLayerKind, int], int] = field(default_factory=dict)
    head_bytes: Mapping[int, int] = field(default_factory=dict)
    plane_sub_layers: frozenset[int] = frozenset()
    narrowing: Mapping[int, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if FULL_BITS not in self.available_bits:
            raise PolicyError("the target's own precision must be among the available bit-widths")
        for bits in (0, *self.available_bits):
            if bits != FULL_BITS and len(self.sensitivity.get(bits, ())) != self.num_sub_layers:
                raise PolicyError(f"no sensitivity at {bits} bits for each of {self.num_sub_layers} sub-layers")
        for units, losses in self.narrowing.items():
            if not 0 < units < SHARE_UNITS or len(losses) != self.num_blocks:
                raise PolicyError(
                    f"the losses of {units} of {SHARE_UNITS} parts of each block's MLP do not fit the model"
                )

    @property
    def num_sub_layers(self) -> int:
        return 2 * self.num_blocks

    @property
    def low_bits(self) -> tuple[int, ...]:
        """Available bit-widths below the target's own."""
        return tuple(bits for bits in self.available_bits if bits < FULL_BITS)

    @property
    def fastest_head_bits(self) -> int:
        return min(self.available_bits, key=lambda bits: (self.base_ms[bits], -bits))

    def kind(self, sub_layer: int) -> SubLayerKind:
        return SUB_LAYER_KINDS[sub_layer % 2]

    def ms(self, sub_layer: int, bits: int) -> float:
        """Time that a sub-layer adds to a step; nothing when it is dropped."""
        return self.sub_layer_ms[self.kind(sub_layer), bits] if bits else 0.0

    def loss(self, sub_layer: int, bits: int) -> float:
        """Loss when this sub-layer alone runs at `bits`; nothing at full precision."""
        return 0.0 if bits == FULL_BITS else max(self.sensitivity[bits][sub_layer], 0.0)

    def shares_ms(self, sub_layer: int, shares: ChannelShares) -> float:
        """Time that a sub-layer with these shares adds to a step, pro rata."""
        return _share_sum(shares, partial(self.ms, sub_layer))

    def shares_loss(self, sub_layer: int, shares: ChannelShares) -> float:
        """Loss when this sub-layer alone has these shares: pro rata, but for the neurons that an MLP lacks.

        The least important ones are worth far less than their share, which `narrowing` knows.
        """
        if not (shares.dropped and self.narrowing and sub_layer % 2):
            return _share_sum(shares, partial(self.loss, sub_layer))
        kept = _share_sum(shares, lambda bits: self.loss(sub_layer, bits) if bits else 0.0)
        return kept + self._narrowing_loss(sub_layer, shares.dropped)

    def _narrowing_loss(self, sub_layer: int, dropped: int) -> float:
        """Loss when an MLP lacks so many sixteenths of its neurons, the least important ones.

        Between measured points it grows by a constant factor, up to the first with the square of what is dropped: that
        is how sums of ever more important neurons, each of which is worth more than all before it, are seen to grow.
        """
        points = {SHARE_UNITS - units: losses[sub_layer // 2] for units, losses in self.narrowing.items()}
        points[SHARE_UNITS] = self.loss(sub_layer, 0)
        low, low_loss = 0, 0.0
        for high in sorted(points):
            high_loss = max(points[high], low_loss)
            if dropped <= high:
                break
            low, low_loss = high, high_loss
        part = (dropped - low) / (high - low)
        if low_loss <= 0.0:
            return high_loss * part**2
        return low_loss * math.pow(high_loss / low_loss, part)

    def shares_bytes(self, sub_layer: int, shares: ChannelShares) -> int:
        """Memory that a draft adds for a sub-layer: whole it may run on the target's own weights."""
        if shares.full == SHARE_UNITS or (shares.eight == SHARE_UNITS and sub_layer in self.plane_sub_layers):
            return 0
        return round(_share_sum(shares, lambda bits: self.sub_layer_bytes[self.kind(sub_layer), bits] if bits else 0))

    def extra_bytes(self, policy: DraftPolicy) -> int:
        """Memory that a draft adds to the target, to the rounding of its channel groups."""
        head = 0 if policy.head_bits == FULL_BITS else self.head_bytes[policy.head_bits]
        return head + sum(self.shares_bytes(index, shares) for index, shares in enumerate(policy.sub_layers))

    @property
    def target_bytes(self) -> int:
        """Weights of all sub-layers and the head at the target's own precision; 0 where sizes are unknown."""
        if not self.head_bytes:
            return 0
        block = sum(self.sub_layer_bytes[kind, FULL_BITS] for kind in SUB_LAYER_KINDS)
        return self.num_blocks * block + self.head_bytes[FULL_BITS]

    def step_ms(self, policy: DraftPolicy) -> float:
        """Predicted milliseconds of one draft step: base plus the sum over sub-layers, shares pro rata."""
        total = self.base_ms[policy.head_bits]
        for index, shares in enumerate(policy.sub_layers):
            total += self.shares_ms(index, shares)
        return total

    def cost(self, policy: DraftPolicy) -> float:
        """Predicted cost c: a draft step over a target step."""
        return self.step_ms(policy) / self.target_ms

    def policy_loss(self, policy: DraftPolicy) -> float:
        """Sum of the losses of its sub-layers: a proxy that ignores how they interact."""
        return sum(self.shares_loss(index, shares) for index, shares in enumerate(policy.sub_layers))

    def ensure_kept(self, bits: list[int]) -> list[int]:
        """The same bits with at least one sub-layer kept: the one that is worst to lose comes back."""
        if any(bits):
            return bits
        worst = max(range(len(bits)), key=lambda index: self.loss(index, 0))
        return [min(self.available_bits) if index == worst else 0 for index in range(len(bits))]

    def to_json(self) -> dict[str, Any]:
        return {
            "num_blocks": self.num_blocks,
            "num_kv_heads": self.num_kv_heads,
            "available_bits": list(self.available_bits),
            "block_influence": list(self.block_influence),
            "sensitivity": {str(bits): list(losses) for bits, losses in self.sensitivity.items()},
            "sub_layer_ms": {f"{kind}/{bits}": ms for (kind, bits), ms in self.sub_layer_ms.items()},
            "base_ms": {str(bits): ms for bits, ms in self.base_ms.items()},
            "target_ms": self.target_ms,
            "sub_layer_bytes": {f"{kind}/{bits}": size for (kind, bits), size in self.sub_layer_bytes.items()},
            "head_bytes": {str(bits): size for bits, size in self.head_bytes.items()},
            "plane_sub_layers": sorted(self.plane_sub_layers),
            "narrowing": {str(units): list(losses) for units, losses in self.narrowing.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PolicyFeatures:
        """The inverse of `to_json`; earlier calibrations have no sizes and no narrowing."""
        return cls(
            num_blocks=document["num_blocks"],
            num_kv_heads=document["num_kv_heads"],
            available_bits=tuple(document["available_bits"]),
            block_influence=tuple(document["block_influence"]),
            sensitivity={int(bits): tuple(losses) for bits, losses in document["sensitivity"].items()},
            sub_layer_ms=_by_kind_and_bits(document["sub_layer_ms"]),
            base_ms={int(bits): ms for bits, ms in document["base_ms"].items()},
            target_ms=document["target_ms"],
            sub_layer_bytes=_by_kind_and_bits(document.get("sub_layer_bytes", {})),
            head_bytes={int(bits): size for bits, size in document.get("head_bytes", {}).items()},
            plane_sub_layers=frozenset(document.get("plane_sub_layers", ())),
            narrowing={int(units): tuple(losses) for units, losses in document.get("narrowing", {}).items()},
        )


def _by_kind_and_bits(figures: Mapping[str, _Figure]) -> dict[tuple[SubLayerKind, int], _Figure]:
    """`{"mlp/8": 1.0}` with its keys taken apart."""
    found: dict[tuple[SubLayerKind, int], _Figure] = {}
    for key, figure in figures.items():
        kind, bits = key.split("/")
        found[SUB_LAYER_KINDS[SUB_LAYER_KINDS.index(kind)], int(bits)] = figure
    return found


def _share_sum(shares: ChannelShares, figure: Callable[[int], float]) -> float:
    """A figure per bit-width, weighted by the share of the channels at it."""
    return sum(shares.units_at(bits) / SHARE_UNITS * figure(bits) for bits in BIT_WIDTHS if shares.units_at(bits))
