"""`Construction`: a policy that is being decided step by step, and which steps may still be taken.

Knows nothing of environments, agents or rewards. A `Plan` says which decisions are taken in which order and what an
option at a step leaves open: in a joint plan it is one choice, for a layer controller it is "drop" or "keep", and what
a kept sub-layer runs at stays open for the channel controller. An option is allowed when some completion still fits the
budgets; so no construction ends outside them, and there is always an allowed option.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autodraft.errors import PolicyError
from autodraft.policies.choices import DROPPED, Budgets, DecisionTable
from autodraft.policies.feasibility import NOTHING, Completions, Points, non_dominated, sums
from autodraft.policy import DraftPolicy

DROP, KEEP = 0, 1
"""The options of a layer controller."""


class Plan:
    """Which decisions are taken, in which order, between which options; shared by all constructions over it.

    Args:
        table: the decisions.
        order: those that are taken, one step each.
        options: the choices that each option leaves open. [options, choices]
        settled: choices of decisions that are not taken because they are known.
        least_kept: sub-layers that have to be kept.
    """

    def __init__(
        self,
        table: DecisionTable,
        order: Sequence[int],
        options: npt.NDArray[np.bool_],
        settled: dict[int, int] | None = None,
        least_kept: int = 1,
    ) -> None:
        self.table, self.order, self.options = table, tuple(order), options
        self.settled = dict(settled or {})
        num_settled = sum(choice != DROPPED for index, choice in self.settled.items() if index != table.head)
        self.least_kept = max(least_kept - num_settled, 0)
        self.open = [i for i in range(table.num_decisions) if i not in self.order and i not in self.settled]
        self.base = NOTHING
        for index in range(table.num_decisions):
            if index not in self.order:
                self.base = sums(self.base, self._required(index))
        reachable = options.any(axis=0)
        dropping = reachable & (np.arange(len(table.menu)) == DROPPED)
        self.completions = Completions(
            [self._points(index, dropping) for index in self.order],
            [self._points(index, reachable & ~dropping) for index in self.order],
            [index != table.head for index in self.order],
            self.least_kept,
        )
        self._fastest: dict[tuple[int, int], int] = {}
        self._option_points = [[self._points(index, option) for option in options] for index in self.order]

    def _required(self, index: int) -> Points:
        everything = np.ones(len(self.table.menu), dtype=bool)
        if index in self.settled:
            everything[:] = False
            everything[self.settled[index]] = True
        points = self._points(index, everything)
        if points is None:
            raise PolicyError(f"decision {index} has no choice left")
        return points

    def _points(self, index: int, choices: npt.NDArray[np.bool_]) -> Points | None:
        chosen = self.table.offered[index] & choices
        if not chosen.any():
            return None
        points = np.stack([self.table.ps[index, chosen], self.table.extra_bytes[index, chosen]], axis=1)
        return non_dominated(points)

    def points(self, step: int, option: int) -> Points | None:
        """What an option of a step can cost; None where it is not offered."""
        return self._option_points[step][option]

    def fastest(self, index: int, option: int) -> int:
        """The choice that runs fastest among those that an option leaves open."""
        if (index, option) not in self._fastest:
            chosen = np.flatnonzero(self.table.offered[index] & self.options[option])
            self._fastest[index, option] = int(chosen[self.table.ps[index, chosen].argmin()])
        return self._fastest[index, option]

    @classmethod
    def joint(cls, table: DecisionTable, least_kept: int = 1) -> Plan:
        """The head, the largest part, and then every sub-layer in turn; an option is one choice of the menu."""
        order = [table.head, *range(table.head)]
        return cls(table, order, np.eye(len(table.menu), dtype=bool), least_kept=least_kept)

    @classmethod
    def layers(cls, table: DecisionTable, least_kept: int = 1) -> Plan:
        """Keep or drop every sub-layer; what runs at how many bits, and the head, stays open."""
        options = np.ones((2, len(table.menu)), dtype=bool)
        options[DROP] = False
        options[:, DROPPED] = (True, False)
        return cls(table, range(table.head), options, least_kept=least_kept)

    @classmethod
    def channels(cls, table: DecisionTable, kept: Sequence[bool]) -> Plan:
        """The head's bits and then shares of the kept sub-layers, given which sub-layers are kept."""
        if len(kept) != table.head or not any(kept):
            raise PolicyError(f"a layer decision has a flag for each of {table.head} sub-layers and keeps at least one")
        options = np.eye(len(table.menu), dtype=bool)
        options[DROPPED] = False
        order = [table.head, *(index for index, is_kept in enumerate(kept) if is_kept)]
        settled = {index: DROPPED for index, is_kept in enumerate(kept) if not is_kept}
        forbidden = [index for index in settled if not table.offered[index, DROPPED]]
        if forbidden:
            raise PolicyError(f"sub-layer {forbidden[0]} is protected and cannot be dropped")
        return cls(table, order, options, settled, least_kept=0)


class Construction:
    """One policy under construction: the options taken so far, and the budgets that the finished one has to keep."""

    def __init__(self, plan: Plan, budgets: Budgets | None = None) -> None:
        self.plan, self.budgets = plan, budgets or Budgets()
        self.taken: list[int] = []
        self.num_kept = 0
        self.spent = plan.base
        self.limits = plan.table.limits(self.budgets)
        self._mask: npt.NDArray[np.bool_] | None = None
        if not plan.completions.fit(0, 0, self.spent, self.limits):
            raise PolicyError(self._nothing_fits())

    def _nothing_fits(self) -> str:
        rest = self.plan.completions.totals(0, 0)
        if rest is None:
            return "no policy keeps that many sub-layers"
        totals = sums(self.spent, rest)
        costs = totals[:, 0] / self.limits[0] * (self.budgets.max_cost or 0.0)
        least = f"; the least that a policy takes is a cost of {costs.min():.3f}" if self.budgets.max_cost else ""
        return f"no policy fits into {self.budgets}{least}"

    @property
    def step(self) -> int:
        """Number of the next step."""
        return len(self.taken)

    @property
    def is_finished(self) -> bool:
        return self.step == len(self.plan.order)

    @property
    def decision(self) -> int:
        """The decision that the next step takes."""
        return self.plan.order[self.step]

    def mask(self) -> npt.NDArray[np.bool_]:
        """Which options may be taken; when all is decided, none. [options]"""
        if self._mask is None:
            options = range(len(self.plan.options))
            self._mask = np.array([not self.is_finished and self._is_allowed(option) for option in options])
        return self._mask.copy()

    def _is_allowed(self, option: int) -> bool:
        points = self.plan.points(self.step, option)
        if points is None:
            return False
        kept, completions = self.num_kept + self._keeps(option), self.plan.completions
        if self.budgets == Budgets():
            return completions.totals(self.step + 1, kept) is not None
        return completions.fit(self.step + 1, kept, sums(self.spent, points), self.limits)

    def is_decided(self, decision: int) -> bool:
        """Whether a decision is settled or has been taken."""
        return decision in self.plan.settled or decision in self.plan.order[: self.step]

    def _keeps(self, option: int) -> int:
        """1 for keeping a sub-layer, 0 for dropping it and for the head."""
        return int(self.decision != self.plan.table.head and not self.plan.options[option, DROPPED])

    def nearest(self, option: int) -> int:
        """The allowed option closest to `option`, the one with more bits where two are equally close."""
        allowed = np.flatnonzero(self.mask())
        return int(min(allowed, key=lambda candidate: (abs(candidate - option), -candidate)))

    def take(self, option: int) -> None:
        """Take an option that the mask allows."""
        if not 0 <= option < len(self.plan.options) or not self.mask()[option]:
            raise PolicyError(f"option {option} is not allowed at step {self.step}")
        points = self.plan.points(self.step, option)
        assert points is not None
        self.num_kept += self._keeps(option)
        self.spent = sums(self.spent, points)
        self.taken.append(option)
        self._mask = None

    @property
    def kept(self) -> tuple[bool, ...]:
        """Of every sub-layer whether it is kept; undecided ones count as kept."""
        return tuple(choice != DROPPED for choice in self.choices()[:-1])

    def choices(self) -> list[int]:
        """A choice for every decision: settled, taken (the fastest of what is left open), else the target's own."""
        table = self.plan.table
        full = len(table.menu) - 1
        choices = [self.plan.settled.get(index, full) for index in range(table.num_decisions)]
        for index in [*self.plan.open, *self.plan.order]:
            if not table.offered[index, full]:
                choices[index] = int(np.flatnonzero(table.offered[index])[-1])
        for index, option in zip(self.plan.order, self.taken, strict=False):
            choices[index] = self.plan.fastest(index, option)
        return choices

    def policy(self) -> DraftPolicy:
        """The policy of `choices`: the finished one when everything is decided."""
        return self.plan.table.policy(self.choices())
