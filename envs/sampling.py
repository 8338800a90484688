"""Budgets and layer decisions drawn at random, all of them feasible.

Knows nothing of environments: for training one controller for every budget, and a channel controller for every layer
decision.
"""

from __future__ import annotations

import numpy as np

from autodraft.policies.choices import Budgets
from autodraft.policies.construction import DROP, KEEP, Construction, Plan
from autodraft.policies.feasibility import sums

_UNLIMITED_SHARE = 0.25
"""How often a budget is not limited at all."""


def sample_budgets(plan: Plan, random: np.random.Generator) -> Budgets:
    """A memory budget up to what the target itself takes, then a cost between the least that fits it and 1.

    Tight budgets are drawn more often than loose ones, which hardly differ.
    """
    features = plan.table.features
    rest = plan.completions.totals(0, 0)
    assert rest is not None
    totals, size = sums(plan.base, rest), None
    if features.target_bytes and random.random() >= _UNLIMITED_SHARE:
        fewest = int(totals[:, 1].min())
        size = fewest + int(random.random() ** 2 * max(features.target_bytes - fewest, 0))
    fitting = totals if size is None else totals[totals[:, 1] <= size]
    least = float(fitting[:, 0].min()) / (features.target_ms * 1e9)
    if random.random() < _UNLIMITED_SHARE:
        return Budgets(None, size)
    return Budgets(least + random.random() ** 2 * max(1.0 - least, 0.0) + 1e-9, size)


def sample_kept(plan: Plan, budgets: Budgets, random: np.random.Generator) -> tuple[bool, ...]:
    """A layer decision that some shares complete within the budgets, with a random share kept."""
    construction = Construction(plan, budgets)
    share = random.uniform(0.3, 1.0)
    while not construction.is_finished:
        construction.take(construction.nearest(KEEP if random.random() < share else DROP))
    return construction.kept
