"""Policies under construction: masks against brute force, budgets kept by every random rollout."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autodraft.errors import PolicyError
from autodraft.policies.choices import Budgets, DecisionTable, share_menu
from autodraft.policies.construction import DROP, KEEP, Construction, Plan
from autodraft.policies.observation import PER_OPTION, PRICES, Layout, Observer
from autodraft.policies.prices import HIGHEST_PRICE, PriceLadder, prices_ahead
from autodraft.policy import FULL_BITS, DraftPolicy
from autodraft.search.testing import PlantedEvaluator

FEATURES = PlantedEvaluator(2).features
SMALL = DecisionTable(FEATURES, share_menu((16, 4), channels=False))
ALL_BYTES = FEATURES.target_bytes


def fits(policy: DraftPolicy, budgets: Budgets) -> bool:
    cost, size = FEATURES.cost(policy), FEATURES.extra_bytes(policy)
    return (budgets.max_cost is None or cost <= budgets.max_cost + 1e-6) and (
        budgets.max_extra_bytes is None or size <= budgets.max_extra_bytes
    )


def every_policy(table: DecisionTable, least_kept: int) -> list[list[int]]:
    offered = [np.flatnonzero(row).tolist() for row in table.offered]
    return [list(choices) for choices in itertools.product(*offered) if sum(c != 0 for c in choices[:-1]) >= least_kept]


EVERYTHING = {least: every_policy(SMALL, least) for least in (1, 2, 3)}
budgets = st.builds(
    Budgets,
    st.none() | st.floats(0.1, 1.1),
    st.none() | st.integers(0, ALL_BYTES),
)


@settings(max_examples=60, deadline=None)
@given(budgets, st.sampled_from([1, 2, 3]), st.randoms(use_true_random=False))
def test_a_mask_allows_exactly_what_some_policy_within_the_budgets_begins_with(
    limits: Budgets, least: int, random: object
) -> None:
    feasible = [choices for choices in EVERYTHING[least] if fits(SMALL.policy(choices), limits)]
    plan = Plan.joint(SMALL, least)
    if not feasible:
        with pytest.raises(PolicyError, match="no policy"):
            Construction(plan, limits)
        return
    construction = Construction(plan, limits)
    while not construction.is_finished:
        done = plan.order[: construction.step]
        beginning = [choices for choices in feasible if [choices[index] for index in done] == construction.taken]
        possible = {choices[construction.decision] for choices in beginning}
        assert set(np.flatnonzero(construction.mask()).tolist()) == possible
        construction.take(random.choice(sorted(possible)))  # type: ignore[attr-defined]
    assert construction.choices() in feasible


@settings(max_examples=40, deadline=None)
@given(budgets, st.sampled_from([1, 3]), st.randoms(use_true_random=False))
def test_a_layer_decision_is_allowed_exactly_where_some_shares_complete_it(
    limits: Budgets, least: int, random: object
) -> None:
    feasible = {
        tuple(choice != 0 for choice in choices[:-1])
        for choices in EVERYTHING[least]
        if fits(SMALL.policy(choices), limits)
    }
    if not feasible:
        return
    construction = Construction(Plan.layers(SMALL, least), limits)
    while not construction.is_finished:
        done = tuple(option == KEEP for option in construction.taken)
        possible = {int(kept[len(done)]) for kept in feasible if kept[: len(done)] == done}
        assert set(np.flatnonzero(construction.mask()).tolist()) == possible
        construction.take(random.choice(sorted(possible)))  # type: ignore[attr-defined]
    shares = Construction(Plan.channels(SMALL, construction.kept), limits)
    while not shares.is_finished:
        shares.take(random.choice(np.flatnonzero(shares.mask()).tolist()))  # type: ignore[attr-defined]
    assert shares.kept == construction.kept and fits(shares.policy(), limits)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.floats(0.12, 1.0),
    st.floats(0.0, 1.0),
    st.booleans(),
    st.sampled_from([1, 5]),
)
def test_random_rollouts_of_a_larger_model_never_leave_the_budgets(
    seed: int, max_cost: float, memory: float, protect_ends: bool, least: int
) -> None:
    features = PlantedEvaluator(5).features
    table = DecisionTable(features, share_menu((16, 8, 4), channels=True), protect_ends=protect_ends)
    plan, random = Plan.joint(table, least), np.random.default_rng(seed)
    limits = Budgets(max_cost, int(memory * features.target_bytes))
    try:
        construction = Construction(plan, limits)
    except PolicyError:
        return
    observer = Observer(plan)
    while not construction.is_finished:
        seen = observer(construction)
        assert seen.dtype == np.float32 and ((seen >= 0) & (seen <= 1)).all()
        allowed = np.flatnonzero(construction.mask())
        assert len(allowed)
        construction.take(int(random.choice(allowed)))
    policy = construction.policy()
    policy.check(features.num_blocks, features.num_kv_heads)
    assert features.cost(policy) <= max_cost + 1e-6
    assert features.extra_bytes(policy) <= memory * features.target_bytes
    assert len(policy.sub_layers) - policy.num_skipped >= least
    if protect_ends:
        assert not any(policy.sub_layers[index].is_skipped for index in (0, 1, -2, -1))


def test_shares_that_are_no_whole_heads_are_not_offered() -> None:
    features = PlantedEvaluator(2).features
    odd = type(features)(**{**features.__dict__, "num_kv_heads": 3})
    table = DecisionTable(odd, share_menu((16, 8, 4), channels=True))
    for index, row in enumerate(table.offered[:-1]):
        mixed = [table.menu[choice] for choice in np.flatnonzero(row) if len(table.menu[choice].to_json()) > 1]
        assert bool(mixed) == (index % 2 == 1)
    plan = Plan.joint(table)
    construction = Construction(plan)
    while not construction.is_finished:
        construction.take(construction.nearest(3))
    construction.policy().check(odd.num_blocks, 3)


def test_a_menu_is_whole_sub_layers_and_a_few_mixtures_by_rising_bits() -> None:
    assert [shares.mean_bits for shares in share_menu((16, 8, 4), channels=False)] == [0, 4, 8, 16]
    mixed = share_menu((16, 8, 4), channels=True)
    assert [shares.mean_bits for shares in mixed] == [0, 1, 2, 3, 4, 6, 6, 8, 12, 16]
    assert [shares.mean_bits for shares in share_menu((16,), channels=True)] == [0, 16]


def test_nothing_decided_is_the_target_and_an_option_outside_the_mask_is_refused() -> None:
    construction = Construction(Plan.joint(SMALL), Budgets(0.3))
    assert construction.policy().is_full and not construction.is_decided(0)
    with pytest.raises(PolicyError, match="not allowed at step 0"):
        construction.take(7)
    layers = Construction(Plan.layers(SMALL))
    for option in (DROP, KEEP, KEEP, DROP):
        layers.take(option)
    assert layers.kept == (False, True, True, False)
    with pytest.raises(PolicyError, match="not allowed"):
        layers.take(KEEP)
    with pytest.raises(PolicyError, match="keeps at least one"):
        Plan.channels(SMALL, [False] * 4)


def test_an_observation_has_a_name_for_every_figure_whatever_the_depth() -> None:
    for blocks in (2, 7):
        plan = Plan.joint(DecisionTable(PlantedEvaluator(blocks).features, share_menu((16, 8, 4), channels=False)))
        observer = Observer(plan)
        construction = Construction(plan, Budgets(0.5))
        seen = dict(zip(observer.layout.names, observer(construction).tolist(), strict=True))
        assert len(seen) == Layout(4).size
        assert seen["cost_budget"] == 0.5 and seen["is_head"] == 1 and seen["previous_1"] == 1
        for option in range(4):
            construction.take(option if construction.mask()[option] else construction.nearest(option))
        seen = dict(zip(observer.layout.names, observer(construction).tolist(), strict=True))
        assert seen["previous_1"] == construction.plan.table.menu[construction.taken[-1]].mean_bits / FULL_BITS
        assert seen["progress"] == pytest.approx(4 / (2 * blocks + 1))
    assert Layout(4).of_options(PER_OPTION[0]) == slice(7, 11)


def test_prices_are_those_of_the_least_loss_that_fits_into_what_is_left() -> None:
    """Against the price of every policy that a price leads to, found by trying them one by one."""
    random = np.random.default_rng(0)
    loss, time = np.sort(random.random((6, 3)))[:, ::-1], np.sort(random.random((6, 3)))
    amounts = np.stack([(1000 * time).astype(np.int64), np.zeros((6, 3), dtype=np.int64)])
    totals = PriceLadder(loss, time, np.zeros((6, 3)), amounts).totals(range(6))
    for step, left in ((0, 3000), (0, 2000), (3, 1200), (5, 400)):
        price, _ = prices_ahead(totals, step, np.array([left, 0]))

        def taken(at: float, step: int = step) -> tuple[float, int]:
            chosen = (loss + at * time).argmin(axis=1)[step:]
            rows = np.arange(step, 6)
            return float(loss[rows, chosen].sum()), int(amounts[0, rows, chosen].sum())

        fitting = [taken(at)[0] for at in np.geomspace(1e-4, HIGHEST_PRICE, 100) if taken(at)[1] <= left]
        assert taken(price)[1] <= left and taken(price)[0] == pytest.approx(min(fitting))
    assert prices_ahead(totals, 0, np.array([-1, 0])) == (HIGHEST_PRICE, HIGHEST_PRICE)


def test_prices_follow_what_is_left_of_the_budget() -> None:
    """After spending most of it on the first decisions the rest is dear; after dropping them it is free."""
    plan = Plan.joint(DecisionTable(PlantedEvaluator(4).features, share_menu((16, 8, 4), channels=False)))
    observer, prices = Observer(plan), {}
    for option in (0, 3):
        construction = Construction(plan, Budgets(0.6))
        while construction.step < 6:
            construction.take(construction.nearest(option))
        prices[option] = observer(construction)[-len(PRICES)]
    assert prices[0] < prices[3]
