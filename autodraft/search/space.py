"""Search spaces: named integers in, `DraftPolicy` out.

Knows nothing of samplers, studies or models. `ProxySpace` is the default: a handful of integers (how many
sub-layers to skip, how many at 4 and at 8 bits) applied in an order given by proxies, because a search over a
bit-width per sub-layer is too large for the trials that a search can afford.
`RawSpace` has one ordinal integer per sub-layer. Everything is an integer, never a category, so that
Gaussian-process and CMA-ES samplers apply. Every point decodes to a policy that fits the model and keeps at
least one sub-layer.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Protocol

from optuna.distributions import IntDistribution

from autodraft.policies.deciders import end_sub_layers, policy_from_bits
from autodraft.policies.features import PolicyFeatures
from autodraft.policy import FULL_BITS, SHARE_UNITS, ChannelShares, DraftPolicy

Params = Mapping[str, int]
_TINY_MS = 1e-6
_MOST_DROPPED = 13
"""Sixteenths of an MLP, on average."""


class SearchSpace(Protocol):
    """Named integers that decode to a policy."""

    @property
    def distributions(self) -> dict[str, IntDistribution]:
        """Parameter name -> range."""
        ...

    def decode(self, params: Params) -> DraftPolicy:
        """The policy at a point of the space; the same point always gives the same policy."""
        ...


class ProxySpace:
    """Counts, applied in order of sensitivity per millisecond saved.

    Parameters: `num_skipped_attention`, `num_skipped_mlp`; `num_at_4` of the kept sub-layers, then `num_at_8` of
    what is left (each only where the device offers the bits); `head_bits` (an index, most precise first);
    `num_narrowed` (sixteenths of MLPs that are dropped in all, where they lose least; only where that is known).
    """

    def __init__(self, features: PolicyFeatures, *, protect_ends: bool = False) -> None:
        self._features = features
        protected = end_sub_layers(features.num_blocks) if protect_ends else frozenset()
        droppable = [index for index in range(features.num_sub_layers) if index not in protected]
        self._skip_order = {
            kind: self._by_loss([index for index in droppable if index % 2 == kind], 0) for kind in (0, 1)
        }
        everything = list(range(features.num_sub_layers))
        self._low_order = {bits: self._by_loss(everything, bits) for bits in features.low_bits}

    def _by_loss(self, sub_layers: list[int], bits: int) -> list[int]:
        """Cheapest first: loss at `bits` per millisecond saved by them."""
        features = self._features

        def price(index: int) -> float:
            saved = features.ms(index, FULL_BITS) - features.ms(index, bits)
            return features.loss(index, bits) / max(saved, _TINY_MS)

        return sorted(sub_layers, key=lambda index: (price(index), index))

    @property
    def distributions(self) -> dict[str, IntDistribution]:
        ranges = {
            "num_skipped_attention": IntDistribution(0, len(self._skip_order[0])),
            "num_skipped_mlp": IntDistribution(0, len(self._skip_order[1])),
        }
        for bits in sorted(self._low_order):
            ranges[f"num_at_{bits}"] = IntDistribution(0, self._features.num_sub_layers)
        if len(self._features.available_bits) > 1:
            ranges["head_bits"] = IntDistribution(0, len(self._features.available_bits) - 1)
        if self._features.narrowing:
            ranges["num_narrowed"] = IntDistribution(0, _MOST_DROPPED * self._features.num_blocks)
        return ranges

    def decode(self, params: Params) -> DraftPolicy:
        features = self._features
        bits = [FULL_BITS] * features.num_sub_layers
        for kind, name in ((0, "num_skipped_attention"), (1, "num_skipped_mlp")):
            for index in self._skip_order[kind][: params[name]]:
                bits[index] = 0
        for width in sorted(self._low_order):
            open_sub_layers = [index for index in self._low_order[width] if bits[index] == FULL_BITS]
            for index in open_sub_layers[: params[f"num_at_{width}"]]:
                bits[index] = width
        head_bits = features.available_bits[params.get("head_bits", 0)]
        policy = policy_from_bits(features.ensure_kept(bits), head_bits)
        return narrowed(features, policy, params.get("num_narrowed", 0))

    def point(
        self,
        *,
        skipped: tuple[int, int] = (0, 0),
        bits: int = FULL_BITS,
        head_bits: int | None = None,
        num_narrowed: int = 0,
    ) -> Params:
        """The point that skips so many attention and MLP sub-layers and runs all others, narrowed, at `bits`."""
        params = dict.fromkeys(self.distributions, 0)
        params["num_skipped_attention"], params["num_skipped_mlp"] = skipped
        if bits != FULL_BITS:
            params[f"num_at_{bits}"] = self._features.num_sub_layers
        if "head_bits" in params:
            params["head_bits"] = self._features.available_bits.index(head_bits or bits)
        params |= {"num_narrowed": num_narrowed} if "num_narrowed" in params else {}
        return {name: min(value, self.distributions[name].high) for name, value in params.items()}


class RawSpace:
    """One ordinal integer per sub-layer (0 skips it, then rising bits) and one for the head."""

    def __init__(self, features: PolicyFeatures, *, protect_ends: bool = False) -> None:
        self._features = features
        self._protected = end_sub_layers(features.num_blocks) if protect_ends else frozenset()
        self._levels = (0, *sorted(features.available_bits))

    def _name(self, sub_layer: int) -> str:
        return f"layer_{sub_layer // 2:02d}/{self._features.kind(sub_layer)}"

    @property
    def distributions(self) -> dict[str, IntDistribution]:
        ranges = {
            self._name(index): IntDistribution(1 if index in self._protected else 0, len(self._levels) - 1)
            for index in range(self._features.num_sub_layers)
        }
        return ranges | {"layer_head": IntDistribution(0, len(self._levels) - 2)}

    def decode(self, params: Params) -> DraftPolicy:
        bits = [self._levels[params[self._name(index)]] for index in range(self._features.num_sub_layers)]
        return policy_from_bits(self._features.ensure_kept(bits), self._levels[1 + params["layer_head"]])

    def encode(self, policy: DraftPolicy) -> dict[str, int]:
        """The inverse of `decode`; empty for a policy with mixed shares, which is no point of this space."""
        level_of = {ChannelShares.all_at(bits): level for level, bits in enumerate(self._levels)}
        levels = [level_of.get(shares) for shares in policy.sub_layers]
        if policy.head_bits not in self._levels:
            return {}
        params = {self._name(index): level for index, level in enumerate(levels) if level is not None}
        if len(params) < len(levels):
            return {}
        return params | {"layer_head": self._levels.index(policy.head_bits) - 1}


def narrowed(features: PolicyFeatures, policy: DraftPolicy, num_dropped: int) -> DraftPolicy:
    """The same policy without so many sixteenths of its MLPs' neurons in all, always where the next one loses least.

    Only MLPs at one bit-width are narrowed, and each keeps a sixteenth.
    """
    shares = {index: each for index, each in enumerate(policy.sub_layers) if index % 2 and each.single_width}
    heap: list[tuple[float, int]] = []

    def offer(index: int) -> None:
        fewer = narrower(shares[index], 1)
        if fewer != shares[index]:
            price = features.shares_loss(index, fewer) - features.shares_loss(index, shares[index])
            heapq.heappush(heap, (price, index))

    for index in shares:
        offer(index)
    for _ in range(num_dropped):
        if heap:
            _, index = heapq.heappop(heap)
            shares[index] = narrower(shares[index], 1)
            offer(index)
    return policy.replace(shares)


def narrower(shares: ChannelShares, units: int) -> ChannelShares:
    """With so many sixteenths more dropped, or back where negative, as far as one is kept; of one bit-width."""
    bits = shares.single_width
    assert bits is not None, "a sub-layer that runs at one bit-width"
    return ChannelShares.of({bits: min(max(shares.units_at(bits) - units, 1), SHARE_UNITS)})
