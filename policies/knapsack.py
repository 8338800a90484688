"""`LatencyKnapsack`: the least loss that fits into a time budget, solved exactly.

Knows nothing of acceptance: it minimises the sum of per-sub-layer losses, which ignores interactions (loss is
not additive, EvoPress, 2410.14649). It is the strongest of the deciders and a seed of the search, not its end.

Dynamic programming over the non-dominated (milliseconds, loss) states of each sub-layer kind; times depend only on
kind and shares, so a kind has at most as many states as there are ways to count its sub-layers per choice, and with
narrowed MLPs, whose times are multiples of a sixteenth, not many more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autodraft.errors import PolicyError
from autodraft.policies.deciders import policy_from_bits
from autodraft.policies.features import PolicyFeatures
from autodraft.policy import ChannelShares, DraftPolicy

_SLACK = 1e-9
"""Relative slack on the budget, so that sums in another order still fit."""

_NARROW_UNITS = (2, 3, 4, 5, 6, 8, 10, 12, 14)


@dataclass(frozen=True)
class _Frontier:
    """Ways to choose for some sub-layers, by rising time; each loses less than every faster one.

    Attributes:
        ms, loss: totals. [states]
        steps: for each sub-layer, of the states after it, the number of the choice and of the state before. [states]
    """

    ms: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    steps: tuple[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]], ...] = ()

    def after(self, ms: npt.NDArray[np.float64], loss: npt.NDArray[np.float64]) -> _Frontier:
        """With one more sub-layer, of which each choice takes and loses so much (infinitely much: not allowed)."""
        all_ms, all_loss = (self.ms[:, None] + ms).ravel(), (self.loss[:, None] + loss).ravel()
        order = np.lexsort((all_loss, all_ms))
        least = np.minimum.accumulate(all_loss[order])
        is_less = np.concatenate([[np.isfinite(least[0])], least[1:] < least[:-1]])
        kept = order[is_less]
        return _Frontier(all_ms[kept], all_loss[kept], (*self.steps, (kept % len(ms), kept // len(ms))))

    def choices(self, state: int) -> list[int]:
        """The number of the choice for each sub-layer that led to a state."""
        found: list[int] = []
        for choices, before in reversed(self.steps):
            found.append(int(choices[state]))
            state = int(before[state])
        return found[::-1]


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
        menus = [self._choices(features, is_mlp=is_mlp) for is_mlp in (False, True)]
        attention, mlp = (
            self._frontier(features, range(kind, features.num_sub_layers, 2), menus[kind]) for kind in (0, 1)
        )
        states = _cheapest_pair(attention, mlp, allowance)
        shares = [ChannelShares()] * features.num_sub_layers
        for kind, frontier in enumerate((attention, mlp)):
            shares[kind::2] = [menus[kind][choice] for choice in frontier.choices(states[kind])]
        if all(each.is_skipped for each in shares):
            return policy_from_bits(features.ensure_kept([0] * len(shares)), head_bits)
        return DraftPolicy.from_sub_layers(shares, head_bits)

    def _frontier(
        self, features: PolicyFeatures, sub_layers: Sequence[int], menu: Sequence[ChannelShares]
    ) -> _Frontier:
        frontier = _Frontier(np.zeros(1), np.zeros(1))
        for index in sub_layers:
            loss = [
                np.inf if shares.is_skipped and index in self.protected else features.shares_loss(index, shares)
                for shares in menu
            ]
            frontier = frontier.after(np.array([features.shares_ms(index, each) for each in menu]), np.array(loss))
        return frontier

    def _choices(self, features: PolicyFeatures, *, is_mlp: bool) -> list[ChannelShares]:
        bits = self.choices if self.choices is not None else (0, *features.available_bits)
        whole = [ChannelShares.all_at(width) for width in bits]
        if self.choices is not None or not (is_mlp and features.narrowing):
            return whole
        lowest = min(features.available_bits)
        return whole + [ChannelShares.of({lowest: units}) for units in _NARROW_UNITS]


def _cheapest_pair(attention: _Frontier, mlp: _Frontier, allowance: float) -> tuple[int, int]:
    """The pair of states with the least loss, and then time, whose time fits; the fastest pair must fit."""
    limit = allowance + _SLACK * max(abs(allowance), 1.0)
    slowest = np.searchsorted(mlp.ms, limit - attention.ms, side="right") - 1
    fitting = np.flatnonzero(slowest >= 0)
    if not len(fitting):
        least = attention.ms[0] + mlp.ms[0]
        raise PolicyError(
            f"no policy fits: {allowance:.4g} ms are left for the sub-layers, the fastest choice takes {least:.4g}"
        )
    others = slowest[fitting]
    loss, ms = attention.loss[fitting] + mlp.loss[others], attention.ms[fitting] + mlp.ms[others]
    best = int(np.lexsort((ms, loss))[0])
    return int(fitting[best]), int(others[best])
