"""Deciders that look at one figure each: uniform bits, block influence, chance.

Know nothing of acceptance or speedup: they only order sub-layers. What decides by learning is a controller and
lives elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from autodraft.errors import PolicyError
from autodraft.policies.features import PolicyFeatures
from autodraft.policy import FULL_BITS, ChannelShares, DraftPolicy


class Decider(Protocol):
    """Features in, policy out. A decider is a value: the same features always give the same policy."""

    def decide(self, features: PolicyFeatures) -> DraftPolicy: ...


def policy_from_bits(bits: Sequence[int], head_bits: int) -> DraftPolicy:
    """One bit-width per sub-layer (0 drops it)."""
    return DraftPolicy.from_sub_layers([ChannelShares.all_at(width) for width in bits], head_bits)


def end_sub_layers(num_blocks: int) -> frozenset[int]:
    """The sub-layers of the first and the last block, which some methods never skip."""
    last = 2 * (num_blocks - 1)
    return frozenset((0, 1, last, last + 1))


@dataclass(frozen=True)
class UniformBits:
    """Every sub-layer at the same bits, nothing skipped."""

    bits: int
    head_bits: int | None = None

    def decide(self, features: PolicyFeatures) -> DraftPolicy:
        return DraftPolicy.uniform(features.num_blocks, self.bits, self.head_bits)


@dataclass(frozen=True)
class BlockInfluenceSkip:
    """Skips the `num_skipped` sub-layers of lowest block influence (ShortGPT, 2403.03853), the rest at `bits`."""

    num_skipped: int
    bits: int = FULL_BITS
    head_bits: int | None = None
    protected: Collection[int] = ()

    def decide(self, features: PolicyFeatures) -> DraftPolicy:
        candidates = [index for index in range(features.num_sub_layers) if index not in self.protected]
        if not 0 <= self.num_skipped <= len(candidates) or self.num_skipped == features.num_sub_layers:
            raise PolicyError(f"{self.num_skipped} of {len(candidates)} sub-layers cannot be skipped")
        candidates.sort(key=lambda index: features.block_influence[index])
        skipped = set(candidates[: self.num_skipped])
        bits = [0 if index in skipped else self.bits for index in range(features.num_sub_layers)]
        return policy_from_bits(bits, self.head_bits or self.bits)


@dataclass(frozen=True)
class RandomPolicy:
    """Each sub-layer at bits drawn evenly from 0 and what is available."""

    seed: int

    def decide(self, features: PolicyFeatures) -> DraftPolicy:
        generator = np.random.default_rng(self.seed)
        choices = (0, *features.available_bits)
        bits = [int(generator.choice(choices)) for _ in range(features.num_sub_layers)]
        return policy_from_bits(features.ensure_kept(bits), int(generator.choice(features.available_bits)))
