"""`DecisionTable`: every decision that makes a policy, what can be chosen at it, and what each choice costs.

Knows nothing of the order in which decisions are taken or of who takes them. There is one decision for each sub-layer
and a last one for the output head. All share one menu of channel shares; a choice that a decision does not offer (a
share that is no whole number of KV heads, a head without bits) is marked so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from autodraft.errors import InputError, PolicyError
from autodraft.policies.deciders import end_sub_layers
from autodraft.policies.features import PolicyFeatures
from autodraft.policy import FULL_BITS, SHARE_UNITS, ChannelShares, DraftPolicy, SubLayerKind

DROPPED = 0
"""The first choice of every menu."""

PICOSECONDS = 10**9
"""In a millisecond. Time is counted in whole picoseconds, so that sums do not depend on their order."""

_HALF, _QUARTER = SHARE_UNITS // 2, SHARE_UNITS // 4


@dataclass(frozen=True)
class Budgets:
    """What a policy may take, head included; None is no limit.

    Attributes:
        max_cost: of one draft step, in target steps (c).
        max_extra_bytes: memory that the draft adds to the target.
    """

    max_cost: float | None = None
    max_extra_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.max_cost is not None and not 0 < self.max_cost < math.inf:
            raise InputError(f"max_cost is {self.max_cost}; it is a positive share of the target's step")
        if self.max_extra_bytes is not None and self.max_extra_bytes < 0:
            raise InputError(f"max_extra_bytes is {self.max_extra_bytes}; it cannot be negative")


def share_menu(available_bits: Sequence[int], channels: bool) -> tuple[ChannelShares, ...]:
    """Dropped, then shares by rising mean bits: whole sub-layers, and with `channels` a few mixtures.

    The mixtures: half of the channels at one bit-width and half at the next lower one, the least important quarter
    gone with the rest at low bits, and half or three quarters gone with the rest at the lowest.
    """
    widths = sorted(available_bits, reverse=True)
    menu = {ChannelShares.all_at(bits) for bits in (0, *widths)}
    if channels:
        menu |= {ChannelShares.of({high: _HALF, low: _HALF}) for high, low in pairwise(widths)}
        menu |= {ChannelShares.of({bits: SHARE_UNITS - _QUARTER}) for bits in widths if bits != FULL_BITS}
        if widths[-1] != FULL_BITS:
            menu |= {ChannelShares.of({widths[-1]: units}) for units in (_HALF, _QUARTER)}
    return tuple(sorted(menu, key=lambda shares: (shares.mean_bits, shares)))


class DecisionTable:
    """The decisions about one target: a row for each sub-layer and a last one for the head, a column for each choice.

    Args:
        features: of the target.
        menu: channel shares to choose from, the dropped one first.
        protect_ends: whether the first and the last block keep both their sub-layers.
        head_bits: bit-widths that the head may have; None is all that are available.

    Attributes:
        offered: whether a decision has a choice at all. [decisions, choices]
        ps: picoseconds that a choice adds to a draft step, rounded up. [decisions, choices]
        extra_bytes: memory that it adds. [decisions, choices]
        loss: what it loses when nothing else is changed; unknown for the head and counted as 0. [decisions, choices]
    """

    def __init__(
        self,
        features: PolicyFeatures,
        menu: Sequence[ChannelShares],
        *,
        protect_ends: bool = False,
        head_bits: Sequence[int] | None = None,
    ) -> None:
        if not menu or menu[DROPPED] != ChannelShares():
            raise PolicyError("the first choice of a menu is to drop the sub-layer")
        self.features, self.menu = features, tuple(menu)
        self.head = features.num_sub_layers
        shape = (self.num_decisions, len(self.menu))
        self.offered: npt.NDArray[np.bool_] = np.zeros(shape, dtype=bool)
        self.ps: npt.NDArray[np.int64] = np.zeros(shape, dtype=np.int64)
        self.extra_bytes: npt.NDArray[np.int64] = np.zeros(shape, dtype=np.int64)
        self.loss: npt.NDArray[np.float64] = np.zeros(shape)
        protected = end_sub_layers(features.num_blocks) if protect_ends else frozenset()
        for choice, shares in enumerate(self.menu):
            for index in range(features.num_sub_layers):
                self._fill(index, choice, shares, index in protected)
            self._fill_head(choice, shares, features.available_bits if head_bits is None else head_bits)

    @property
    def num_decisions(self) -> int:
        return self.head + 1

    @property
    def kinds(self) -> tuple[SubLayerKind | None, ...]:
        """Of each decision; None is the head."""
        return (*(self.features.kind(index) for index in range(self.head)), None)

    def _fill(self, index: int, choice: int, shares: ChannelShares, protected: bool) -> None:
        features = self.features
        self.offered[index, choice] = not (protected and shares.is_skipped) and _fits_heads(
            shares, features.num_kv_heads, features.kind(index)
        )
        self.ps[index, choice] = _picoseconds(features.shares_ms(index, shares))
        self.loss[index, choice] = features.shares_loss(index, shares)
        if features.target_bytes:
            self.extra_bytes[index, choice] = features.shares_bytes(index, shares)

    def _fill_head(self, choice: int, shares: ChannelShares, head_bits: Sequence[int]) -> None:
        """The head's choices are the menu's whole shares."""
        features = self.features
        bits = next((bits for bits in head_bits if shares == ChannelShares.all_at(bits)), None)
        if bits is None:
            return
        self.offered[self.head, choice] = True
        self.ps[self.head, choice] = _picoseconds(features.base_ms[bits])
        if features.target_bytes and bits != FULL_BITS:
            self.extra_bytes[self.head, choice] = features.head_bytes[bits]

    def policy(self, choices: Sequence[int]) -> DraftPolicy:
        """The policy of one choice per decision."""
        *sub_layers, head = (self.menu[choice] for choice in choices)
        return DraftPolicy.from_sub_layers(sub_layers, round(head.mean_bits))

    def choices(self, policy: DraftPolicy) -> list[int]:
        """The inverse of `policy`; raises ValueError for shares that are not on the menu."""
        return [self.menu.index(shares) for shares in (*policy.sub_layers, ChannelShares.all_at(policy.head_bits))]

    def limits(self, budgets: Budgets) -> npt.NDArray[np.int64]:
        """Budgets as (picoseconds, bytes), rounded up by a nanosecond and far beyond everything where unlimited. [2]"""
        if budgets.max_extra_bytes is not None and not self.features.target_bytes:
            raise PolicyError("a memory budget needs the sizes of the weights, which this calibration does not have")
        ps = _UNLIMITED
        if budgets.max_cost is not None:
            ps = min(round((budgets.max_cost * self.features.target_ms + 1e-6) * PICOSECONDS), _UNLIMITED)
        size = _UNLIMITED if budgets.max_extra_bytes is None else budgets.max_extra_bytes
        return np.array([ps, size], dtype=np.int64)


_UNLIMITED = 2**60


def _picoseconds(ms: float) -> int:
    return math.ceil(ms * PICOSECONDS)


def _fits_heads(shares: ChannelShares, num_kv_heads: int, kind: SubLayerKind) -> bool:
    """Whether attention shares are whole KV heads; an MLP has neurons enough."""
    units = (shares.full, shares.eight, shares.four)
    return kind == "mlp" or all(num_kv_heads * unit % SHARE_UNITS == 0 for unit in units)
