"""What an agent sees of a policy under construction: a flat vector of figures between 0 and 1.

Knows nothing of agents. The figures are those of AMC and HAQ (index, kind, size, what is spent and what is left, the
previous decisions) plus what calibration measured: block influence, and loss, time and memory of every option; and the
prices of time and memory at which a knapsack over what is still open keeps what is left of the budgets. Their number
depends on the number of options only, so what was learnt on one model can be used on a model of another depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autodraft.policies.choices import DROPPED, Budgets, DecisionTable
from autodraft.policies.construction import Construction, Plan
from autodraft.policies.prices import HIGHEST_PRICE, LOWEST_PRICE, PriceLadder, Totals, prices_ahead
from autodraft.policy import FULL_BITS

Vector = npt.NDArray[np.float32]

STATIC = ("index", "is_attention", "is_mlp", "is_head", "size", "block_influence", "drop_rank")
PER_OPTION = ("loss", "time", "memory", "allowed")
PROGRESS = (
    "progress", "cost", "cost_ahead", "cost_budget", "cost_slack", "memory_used", "memory_budget", "memory_slack",
    "kept", "loss_so_far", "bits_so_far",
)  # fmt: skip
NUM_PREVIOUS = 4
PRICES = ("time_price_ahead", "memory_price_ahead")
"""The prices at which what is left is just kept (0: it is kept anyway), on a logarithmic scale."""
PRICE_FLOOR = 0.01
"""Where the lowest price stands on the scale, to tell it from none."""
_RELATIVE_RANGE = 4.0
"""Time and memory of a decision are in multiples of their average; this many become 1."""


@dataclass(frozen=True)
class Layout:
    """Where each figure of an observation stands.

    Attributes:
        num_options: options of a step.
    """

    num_options: int

    @property
    def names(self) -> tuple[str, ...]:
        """One name per figure."""
        options = [f"{name}_{option}" for name in PER_OPTION for option in range(self.num_options)]
        previous = (f"previous_{number + 1}" for number in range(NUM_PREVIOUS))
        return (*STATIC, *options, *PROGRESS, *previous, *PRICES)

    @property
    def size(self) -> int:
        return self.size_without_prices + len(PRICES)

    @property
    def size_without_prices(self) -> int:
        return len(STATIC) + len(PER_OPTION) * self.num_options + len(PROGRESS) + NUM_PREVIOUS

    def of_options(self, name: str) -> slice:
        """The figures of this name, one for each option."""
        start = len(STATIC) + PER_OPTION.index(name) * self.num_options
        return slice(start, start + self.num_options)

    def index(self, name: str) -> int:
        return self.names.index(name)


class Observer:
    """Observations of constructions over one table with one set of options; see the module's text."""

    def __init__(self, plan: Plan) -> None:
        table = plan.table
        self.layout = Layout(len(plan.options))
        self._table = table
        self._static = np.concatenate([_static(table), _option_figures(plan)], axis=1)
        self._target_ps = table.features.target_ms * 1e9
        self._target_bytes = max(table.features.target_bytes, 1)
        self._own_ps = table.ps[:, -1] / self._target_ps
        self._ladder = _ladder(plan, self._static, self.layout)
        self._totals: tuple[Plan, Totals] | None = None

    def __call__(self, construction: Construction) -> Vector:
        """The observation before the next step; after the last one the rows of the current decision are 0."""
        layout = self.layout
        vector = np.zeros(layout.size, dtype=np.float32)
        if not construction.is_finished:
            row = self._static[construction.decision]
            vector[: len(row)] = row
            vector[layout.of_options("allowed")] = construction.mask()
        start = len(STATIC) + len(PER_OPTION) * layout.num_options
        vector[start : start + len(PROGRESS)] = self._progress(construction)
        vector[start + len(PROGRESS) : -len(PRICES)] = self._previous(construction)
        vector[-len(PRICES) :] = self._prices(construction)
        return vector.clip(0.0, 1.0)

    def static_row(self, decision: int) -> npt.NDArray[np.float64]:
        """What is seen of a decision whatever was decided before; the mask and what follows are left out."""
        row: npt.NDArray[np.float64] = self._static[decision].clip(0.0, 1.0)
        return row

    def budgets(self, budgets: Budgets) -> tuple[float, float]:
        """(cost, memory) budgets as shares of the target; 1 is no limit."""
        cost = 1.0 if budgets.max_cost is None else min(budgets.max_cost, 1.0)
        memory = 1.0 if budgets.max_extra_bytes is None else min(budgets.max_extra_bytes / self._target_bytes, 1.0)
        return cost, memory

    def _progress(self, construction: Construction) -> list[float]:
        plan, table = construction.plan, self._table
        done = plan.order[: construction.step]
        choices = construction.choices()
        cost = float(construction.spent[:, 0].min()) / self._target_ps
        memory = float(construction.spent[:, 1].min()) / self._target_bytes
        ahead = float(self._own_ps[list(plan.order[construction.step :])].sum())
        cost_budget, memory_budget = self.budgets(construction.budgets)
        rest = plan.completions.totals(construction.step, construction.num_kept)
        assert rest is not None
        loss = float(sum(table.loss[index, choices[index]] for index in done))
        bits = [table.menu[choices[index]].mean_bits / FULL_BITS for index in done]
        return [
            construction.step / len(plan.order),
            cost,
            ahead,
            cost_budget,
            cost_budget - cost - float(rest[:, 0].min()) / self._target_ps,
            memory,
            memory_budget,
            memory_budget - memory - float(rest[:, 1].min()) / self._target_bytes,
            construction.num_kept / table.head,
            loss / (1.0 + loss),
            float(np.mean(bits)) if bits else 1.0,
        ]

    def _prices(self, construction: Construction) -> tuple[float, float]:
        """Prices of time and memory that choose what fits into what is left with the least loss, on their scale."""
        if construction.budgets == Budgets() or construction.is_finished:
            return 0.0, 0.0
        if self._totals is None or self._totals[0] is not construction.plan:
            self._totals = construction.plan, self._ladder.totals(construction.plan.order)
        left = construction.limits - construction.spent.min(axis=0)
        time, memory = prices_ahead(self._totals[1], construction.step, left)
        return _on_scale(time), _on_scale(memory)

    def _previous(self, construction: Construction) -> list[float]:
        """Mean bits of the latest decisions, latest first; 1 before there were any."""
        choices, table = construction.choices(), self._table
        done = construction.plan.order[: construction.step][::-1][:NUM_PREVIOUS]
        latest = [table.menu[choices[index]].mean_bits / FULL_BITS for index in done]
        return latest + [1.0] * (NUM_PREVIOUS - len(latest))

    def whole(self, budgets: Budgets) -> Vector:
        """Everything at once, for an agent that decides in one step: the rows of all decisions, then the budgets."""
        return np.concatenate([self._static.ravel(), self.budgets(budgets)]).clip(0.0, 1.0).astype(np.float32)


def _static(table: DecisionTable) -> npt.NDArray[np.float64]:
    """What never changes about each decision. [decisions, STATIC]"""
    features = table.features
    rows = np.zeros((table.num_decisions, len(STATIC)))
    rows[:, 0] = np.arange(table.num_decisions) / table.head
    for column, kind in enumerate(("attention", "mlp", None), start=1):
        rows[:, column] = [decision_kind == kind for decision_kind in table.kinds]
    rows[:, 4] = _sizes(table)
    influence = np.array(features.block_influence)
    rows[: table.head, 5] = influence / max(float(influence.max()), 1e-12)
    price = table.loss[: table.head, DROPPED] / np.maximum(table.ps[: table.head, -1], 1)
    rows[: table.head, 6] = price.argsort(kind="stable").argsort(kind="stable") / max(table.head - 1, 1)
    return rows


def _sizes(table: DecisionTable) -> npt.NDArray[np.float64]:
    """Share of the target's weights; where sizes are unknown, of its time."""
    features = table.features
    if not features.target_bytes:
        own = table.ps[:, -1].astype(float)
        return own / max(float(own.sum()), 1.0)
    sizes = [features.sub_layer_bytes[features.kind(index), FULL_BITS] for index in range(table.head)]
    return np.array([*sizes, features.head_bytes[FULL_BITS]]) / features.target_bytes


def _option_figures(plan: Plan) -> npt.NDArray[np.float64]:
    """Loss, time and memory of the fastest choice that an option leaves open; 1 where it is not offered.

    Time and memory are beyond the least that the decision takes anyway: what the head costs at any precision, and the
    rest of a step that is counted with it, would hide what its bits are worth.
    """
    table, num_options = plan.table, len(plan.options)
    figures = np.ones((table.num_decisions, 3, num_options))
    relative = (
        np.array([table.features.target_ms * 1e9, max(table.features.target_bytes, 1)])
        * _RELATIVE_RANGE
        / table.num_decisions
    )
    for index in range(table.num_decisions):
        least = [amounts[index, table.offered[index]].min() for amounts in (table.ps, table.extra_bytes)]
        for option in range(num_options):
            if (table.offered[index] & plan.options[option]).any():
                choice = plan.fastest(index, option)
                loss = table.loss[index, choice]
                amounts = np.array([table.ps[index, choice], table.extra_bytes[index, choice]]) - least
                figures[index, :, option] = (loss / (1.0 + loss), *(amounts / relative))
    return figures.reshape(table.num_decisions, -1)


def _ladder(plan: Plan, static: npt.NDArray[np.float64], layout: Layout) -> PriceLadder:
    """Of all decisions of the table; an option costs what the fastest choice costs that it leaves open."""
    table, num_options = plan.table, len(plan.options)
    loss, time, memory = (static[:, layout.of_options(name)].copy() for name in PER_OPTION[:3])
    amounts = np.zeros((2, table.num_decisions, num_options), dtype=np.int64)
    for index in range(table.num_decisions):
        for option in range(num_options):
            if (table.offered[index] & plan.options[option]).any():
                choice = plan.fastest(index, option)
                amounts[:, index, option] = table.ps[index, choice], table.extra_bytes[index, choice]
            else:
                loss[index, option] = np.inf
    return PriceLadder(loss, time, memory, amounts)


def _on_scale(price: float) -> float:
    """0 for no price, else its logarithm between the lowest and the highest; `price_at` is the inverse."""
    if price <= 0.0:
        return 0.0
    share = float(np.log(price / LOWEST_PRICE) / np.log(HIGHEST_PRICE / LOWEST_PRICE))
    return share * (1.0 - PRICE_FLOOR) + PRICE_FLOOR
