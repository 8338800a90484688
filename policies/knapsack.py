"""`LatencyKnapsack`: the least loss that fits into a time budget, solved exactly.

Knows nothing of acceptance: it minimises the sum of per-sub-layer losses, which ignores interactions (loss is
not additive, EvoPress, 2410.14649). It is the strongest of the deciders and a seed of the search, not its end.

Dynamic programming over the non-dominated (milliseconds, loss) states of each sub-layer kind; times depend only on
kind and shares, so a kind has at most as many states as there are ways to count its sub-layers per choice, and with
narrowed MLPs, whose times are multiples of a sixteenth, not many more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from autodraft.errors import PolicyError
from autodraft.policies.deciders import policy_from_bits
from autodraft.policies.features import PolicyFeatures
from autodraft.policy import ChannelShares, DraftPolicy

_SLACK = 1e-9
"""Relative slack on the budget, so that sums in another order still fit."""


class _State(NamedTuple):
    ms: float
    loss: float
    shares: ChannelShares
    parent: _State | None


_START = _State(0.0, 0.0, ChannelShares(), None)
_NARROW_UNITS = (2, 3, 4, 5, 6, 8, 10, 12, 14)


@dataclass(frozen=True)
class LatencyKnapsack:
    """Chooses bits per sub-layer: least loss with a step of at most `budget_ms`.

    Among them are MLPs of fewer neurons at the lowest bit-width, where features say what those lose.

    Attributes:
        budget_ms: time of one draft step, overhead and head included.
        head_bits: precision of the head; None takes the fastest one.
        protected: sub-layers that are never dropped.
        choices: bit-widths to choose from, 0 for dropping, and no neurons dropped; None takes all that there is.
    """

    budget_ms: float
    head_bits: int | None = None
    protected: Collection[int] = ()
    choices: tuple[int, ...] | None = None

    def decide(self, features: PolicyFeatures) -> DraftPolicy:
        head_bits = self.head_bits or features.fastest_head_bits
        allowance = self.budget_ms - features.base_ms[head_bits]
        attention = self._frontier(features, range(0, features.num_sub_layers, 2))
        mlp = self._frontier(features, range(1, features.num_sub_layers, 2))
        shares = [ChannelShares()] * features.num_sub_layers
        shares[0::2], shares[1::2] = _cheapest_pair(attention, mlp, allowance)
        if all(each.is_skipped for each in shares):
            return policy_from_bits(features.ensure_kept([0] * len(shares)), head_bits)
        return DraftPolicy.from_sub_layers(shares, head_bits)

    def _frontier(self, features: PolicyFeatures, sub_layers: Sequence[int]) -> list[_State]:
        choices = self._choices(features, is_mlp=sub_layers[0] % 2 == 1)
        frontier = [_START]
        for index in sub_layers:
            allowed = [
                (shares, features.shares_ms(index, shares), features.shares_loss(index, shares))
                for shares in choices
                if not (shares.is_skipped and index in self.protected)
            ]
            frontier = _non_dominated(
                [
                    _State(state.ms + ms, state.loss + loss, shares, state)
                    for state in frontier
                    for shares, ms, loss in allowed
                ]
            )
        return frontier

    def _choices(self, features: PolicyFeatures, *, is_mlp: bool) -> list[ChannelShares]:
        bits = self.choices if self.choices is not None else (0, *features.available_bits)
        whole = [ChannelShares.all_at(width) for width in bits]
        if self.choices is not None or not (is_mlp and features.narrowing):
            return whole
        lowest = min(features.available_bits)
        return whole + [ChannelShares.of({lowest: units}) for units in _NARROW_UNITS]


def _non_dominated(states: list[_State]) -> list[_State]:
    """States with less loss than every faster one, by rising time."""
    states.sort(key=lambda state: (state.ms, state.loss))
    kept: list[_State] = []
    for state in states:
        if not kept or state.loss < kept[-1].loss:
            kept.append(state)
    return kept


def _cheapest_pair(
    attention: list[_State], mlp: list[_State], allowance: float
) -> tuple[list[ChannelShares], list[ChannelShares]]:
    """The shares of the pair with the least loss whose time fits; the fastest pair must fit."""
    mlp_times = [state.ms for state in mlp]
    limit = allowance + _SLACK * max(abs(allowance), 1.0)
    best: tuple[float, float, _State, _State] | None = None
    for state in attention:
        position = bisect_right(mlp_times, limit - state.ms) - 1
        if position < 0:
            break
        pair = (state.loss + mlp[position].loss, state.ms + mlp[position].ms, state, mlp[position])
        if best is None or pair[:2] < best[:2]:
            best = pair
    if best is None:
        least = attention[0].ms + mlp[0].ms
        raise PolicyError(
            f"no policy fits: {allowance:.4g} ms are left for the sub-layers, the fastest choice takes {least:.4g}"
        )
    return _shares_of(best[2]), _shares_of(best[3])


def _shares_of(state: _State) -> list[ChannelShares]:
    shares: list[ChannelShares] = []
    node: _State | None = state
    while node is not None and node.parent is not None:
        shares.append(node.shares)
        node = node.parent
    return shares[::-1]
