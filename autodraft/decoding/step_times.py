"""`StepTimes`: how long steps of the target and of each draft take, as measured while decoding.

Knows nothing of acceptance. Times are in target steps (the target's forward over one token), so that a profile's priors
can stand in until a step has been measured. Kept per draft, per number of query tokens and per range of context
lengths; an average that forgets follows the context as it grows and the machine as it gets busy.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

TARGET = -1
"""The number of the target, where drafts have theirs."""

_CONTEXT_RANGE = 512
_RISE, _FALL = 0.07, 0.25
LARGEST_JUMP = 2.0
_PRIOR_COUNT = 6
_RECORDS_PER_REFRESH = 64  # costs are looked up far more often than they change
_CHAIN_MEMORY, _CHAIN_PULL = 0.99, 10.0
_LEAST_EACH = 0.25  # of a chain's time per token, for each token after the first
_SLOPE = 4  # rows over which the target's marginal cost is averaged: kernels take rows in batches


@dataclass(frozen=True)
class CostPrior:
    """What is known of one model's steps before any was measured.

    Attributes:
        cost: a step over one token, in target steps.
        by_rows: query tokens -> a step over them, in target steps; between and beyond them it goes on in lines.
    """

    cost: float
    by_rows: Mapping[int, float]

    @cached_property
    def _points(self) -> tuple[list[int], list[float]]:
        timed = sorted(self.by_rows)
        return timed, [self.by_rows[rows] for rows in timed]

    def at(self, rows: int) -> float:
        timed, costs = self._points
        if not timed:
            return self.cost
        above = bisect_left(timed, rows)
        if above == len(timed):
            (n0, c0), (n1, c1) = [(0, 0.0), *zip(timed, costs, strict=True)][-2:]
            return c1 + max(c1 - c0, 0.0) * (rows - n1) / (n1 - n0)
        if timed[above] == rows or above == 0:
            return costs[above]
        n0, c0 = timed[above - 1], costs[above - 1]
        return c0 + (costs[above] - c0) * (rows - n0) / (timed[above] - n0)


class _ChainTimes:
    """What a chain of one model's own tokens takes, in seconds: `start + tokens * each`.

    Its first token is dearer than those after it: the call itself, and weights that come back to the caches. Least
    squares with forgetting, and with a pull towards `start` = 0, which decides where all chains are equally long.

    Args:
        step_s: what a token is expected to take.
    """

    def __init__(self, step_s: float) -> None:
        self._sums = [1.0, 1.0, step_s, 1.0, step_s]  # of 1, tokens, seconds, tokens^2, tokens * seconds

    def record(self, tokens: int, seconds: float) -> None:
        start, each = self.fit
        seconds = min(seconds, LARGEST_JUMP * (start + tokens * each))
        seen = (1.0, tokens, seconds, tokens * tokens, tokens * seconds)
        self._sums = [_CHAIN_MEMORY * before + new for before, new in zip(self._sums, seen, strict=True)]

    @property
    def fit(self) -> tuple[float, float]:
        """(start, each)"""
        count, tokens, seconds, squares, products = self._sums
        mean = seconds / tokens
        spread, together = squares - tokens * tokens / count, products - tokens * seconds / count
        each = (together + _CHAIN_PULL * mean) / (spread + _CHAIN_PULL)
        each = min(max(each, _LEAST_EACH * mean), mean)
        return (seconds - each * tokens) / count, each


class StepTimes:
    """Averages of measured steps, in seconds inside and in target steps outside.

    Args:
        target: prior of the target.
        drafts: prior of each draft of the cascade; free drafts take no steps and have None.
    """

    def __init__(self, target: CostPrior, drafts: Sequence[CostPrior | None]) -> None:
        self._priors = {TARGET: target, **{n: prior for n, prior in enumerate(drafts) if prior is not None}}
        # By model and range of context lengths: rows -> (seconds, how often measured).
        self._measured: dict[tuple[int, int], dict[int, tuple[float, int]]] = {}
        self._pace: dict[int, float] = {}  # seconds per target step of the prior, by model
        self._range = 0
        self._costs: dict[int, dict[int, float]] = {model: {} for model in self._priors}  # by rows, once asked for
        self._marginal: dict[int, float] = {}  # of the target, likewise
        self._records = 0
        self._chains: dict[int, _ChainTimes] = {}
        self._chain_costs: dict[int, tuple[float, float]] = {}  # by model, once asked for
        self._decision_s = 0.0

    def set_context(self, length: int) -> None:
        """The context has this many tokens now; a range that is entered first starts from what the last one showed."""
        if length // _CONTEXT_RANGE == self._range:
            return
        before, self._range = self._range, length // _CONTEXT_RANGE
        for model in self._priors:
            known = self._measured.get((model, before))
            if known is not None:
                self._measured.setdefault((model, self._range), dict(known))
        self._forget_costs()

    def record(self, model: int, rows: int, seconds: float, steps: int = 1) -> None:
        """A step of `model` over `rows` query tokens took so long, on average over `steps` of them.

        Averages fall faster than they rise: what disturbs a measurement only ever makes it longer. A hiccup counts as
        `LARGEST_JUMP` times normal.
        """
        prior = self._priors[model].at(rows)
        times = self._measured.setdefault((model, self._range), {})
        # A model's first step is no more to be trusted than later ones: the prior at the target's pace tempers it.
        pace = self._pace.get(model, self._pace.get(TARGET, seconds / prior))
        known, count = times.get(rows) or (prior * pace, 0)
        times[rows] = blend(known, seconds), count + steps
        self._pace[model] = blend(pace, seconds / prior)
        self._records += 1
        if not count or self._records % _RECORDS_PER_REFRESH == 0:
            self._forget_costs()

    def record_chain(self, model: int, tokens: int, seconds: float) -> None:
        """A model drafted so many tokens one after the other in so long."""
        if model not in self._chains and TARGET in self._pace:
            self._chains[model] = _ChainTimes(self._priors[model].at(1) * self._pace[TARGET])
        if model in self._chains:
            self._chains[model].record(tokens, seconds)
        self.record(model, 1, seconds / tokens)

    def record_decisions(self, count: int, seconds: float) -> None:
        """So many decisions what to run next took so long together, what they led to left out."""
        each = seconds / count
        self._decision_s = blend(self._decision_s, each) if self._decision_s else each

    @property
    def decision_cost(self) -> float:
        """What it takes to decide what to run next, in target steps; 0 until it was measured."""
        target_s = self.target_s
        return self._decision_s / target_s if target_s else 0.0

    @property
    def target_s(self) -> float:
        """Seconds of the target's step over one token; 0 until something of the target was measured."""
        return self._seconds(TARGET, 1)

    def cost(self, model: int, rows: int) -> float:
        """A step of `model` over `rows` query tokens, in target steps."""
        cost = self._costs[model].get(rows)
        if cost is None:
            cost = self._costs[model][rows] = self._cost(model, rows)
        return cost

    def chain_cost(self, model: int) -> tuple[float, float]:
        """(what a chain takes however short it is, what each of its tokens takes beside that), in target steps."""
        costs = self._chain_costs.get(model)
        if costs is None:
            chains, target_s = self._chains.get(model), self.target_s
            if chains is None or not target_s:
                return 0.0, self.cost(model, 1)
            start, each = chains.fit
            costs = self._chain_costs[model] = start / target_s, each / target_s
        return costs

    def marginal_cost(self, rows: int) -> float:
        """What one more query token than `rows` adds to a step of the target, in target steps; at least 0."""
        cost = self._marginal.get(rows)
        if cost is None:
            span = self.cost(TARGET, rows + _SLOPE) - self.cost(TARGET, rows)
            cost = self._marginal[rows] = max(span, 0.0) / _SLOPE
        return cost

    def _forget_costs(self) -> None:
        for costs in self._costs.values():
            costs.clear()
        self._marginal.clear()
        self._chain_costs.clear()

    def _cost(self, model: int, rows: int) -> float:
        target_s, seconds = self.target_s, self._seconds(model, rows)
        return seconds / target_s if target_s and seconds else self._priors[model].at(rows)

    def _seconds(self, model: int, rows: int) -> float:
        """Between what was measured and the prior at the model's own pace, by how often it was; 0 if never at all."""
        pace = self._pace.get(model)
        if pace is None:
            return 0.0
        expected = pace * self._priors[model].at(rows)
        seconds, count = self._measured.get((model, self._range), {}).get(rows, (0.0, 0))
        return (count * seconds + _PRIOR_COUNT * expected) / (count + _PRIOR_COUNT)


def blend(known: float, seen: float) -> float:
    """An average that falls faster than it rises, after one more measurement."""
    return known + (_FALL if seen < known else _RISE) * (min(seen, LARGEST_JUMP * known) - known)
