"""Deciders against brute force on small planted worlds."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autodraft.errors import PolicyError
from autodraft.policies import BlockInfluenceSkip, LatencyKnapsack, PolicyFeatures, RandomPolicy, UniformBits
from autodraft.policies.deciders import end_sub_layers, policy_from_bits
from autodraft.policy import ChannelShares, DraftPolicy

BITS = (16, 8, 4)
losses = st.lists(st.floats(0.0, 3.0), min_size=4, max_size=4)


def features(
    drop: list[float], four: list[float], eight: list[float], influence: list[float] | None = None
) -> PolicyFeatures:
    return PolicyFeatures(
        num_blocks=len(drop) // 2,
        num_kv_heads=4,
        available_bits=BITS,
        block_influence=tuple(influence or drop),
        sensitivity={0: tuple(drop), 4: tuple(four), 8: tuple(eight)},
        sub_layer_ms={
            ("attention", 16): 1.0,
            ("attention", 8): 0.6,
            ("attention", 4): 0.4,
            ("mlp", 16): 2.0,
            ("mlp", 8): 1.1,
            ("mlp", 4): 0.7,
        },
        base_ms={16: 1.0, 8: 0.7, 4: 0.6},
        target_ms=7.0,
    )


@settings(max_examples=60, deadline=None)
@given(losses, losses, losses, st.floats(0.6, 8.0))
def test_knapsack_equals_brute_force(
    drop: list[float], four: list[float], eight: list[float], budget_ms: float
) -> None:
    world = features(drop, four, eight)
    best = min(
        world.policy_loss(policy_from_bits(bits, 4))
        for bits in itertools.product((0, *BITS), repeat=4)
        if world.step_ms(policy_from_bits(bits, 4)) <= budget_ms + 1e-9
    )
    chosen = LatencyKnapsack(budget_ms, head_bits=4).decide(world)
    if chosen.num_skipped < 3:  # a lone survivor may have been put back although the budget had no room for it
        assert world.step_ms(chosen) <= budget_ms + 1e-6
        assert world.policy_loss(chosen) == pytest.approx(best, abs=1e-9)
    assert chosen.num_skipped < 4


@settings(max_examples=25, deadline=None)
@given(losses, losses, losses, st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4), st.floats(0.6, 5.0))
def test_knapsack_with_parts_of_mlps_equals_brute_force(
    drop: list[float], four: list[float], eight: list[float], narrow: list[float], budget_ms: float
) -> None:
    world = replace(features(drop, four, eight), narrowing={8: tuple(narrow[:2]), 3: tuple(narrow[2:])})
    whole = [ChannelShares.all_at(bits) for bits in (0, *BITS)]
    parts = [ChannelShares(four=units) for units in (2, 3, 4, 5, 6, 8, 10, 12, 14)]
    menus = (whole, whole + parts)
    policies = (DraftPolicy.from_sub_layers(choice, 4) for choice in itertools.product(*menus, *menus))
    best = min(world.policy_loss(policy) for policy in policies if world.step_ms(policy) <= budget_ms + 1e-9)
    chosen = LatencyKnapsack(budget_ms, head_bits=4).decide(world)
    if chosen.num_skipped < 3:
        assert world.step_ms(chosen) <= budget_ms + 1e-6
        assert world.policy_loss(chosen) == pytest.approx(best, abs=1e-9)


def test_what_an_mlp_loses_with_its_neurons_is_as_measured_and_between_that_rises() -> None:
    plain = features([0.5] * 4, [0.02] * 4, [0.01] * 4)
    world = replace(plain, narrowing={8: (0.002, 0.0), 3: (0.05, 0.04)})
    for index, measured in ((1, {8: 0.002, 3: 0.05, 0: 0.5}), (3, {8: 0.0, 3: 0.04, 0: 0.5})):
        lost = [world.shares_loss(index, ChannelShares(full=units)) for units in range(17)]
        assert {units: lost[units] for units in measured} == pytest.approx(measured) and lost[16] == 0
        assert lost == sorted(lost, reverse=True)
    assert world.shares_loss(1, ChannelShares(four=8)) == pytest.approx(0.002 + 0.01)
    assert world.shares_loss(0, ChannelShares(four=8)) == plain.shares_loss(0, ChannelShares(four=8))  # attention
    assert plain.shares_loss(1, ChannelShares(four=8)) == pytest.approx(0.25 + 0.01)
    assert PolicyFeatures.from_json(json.loads(json.dumps(world.to_json()))) == world
    with pytest.raises(PolicyError, match="do not fit"):
        replace(plain, narrowing={8: (0.1,)})


def test_knapsack_respects_protection_and_refuses_the_impossible() -> None:
    world = features([0.0] * 4, [0.1] * 4, [0.05] * 4)
    policy = LatencyKnapsack(3.0, head_bits=4, protected=(0, 1)).decide(world)
    assert not policy.sub_layers[0].is_skipped and not policy.sub_layers[1].is_skipped
    with pytest.raises(PolicyError, match="no policy fits"):
        LatencyKnapsack(0.7, head_bits=4, protected=(0, 1)).decide(world)


def test_knapsack_restricted_to_skipping_uses_no_low_bits() -> None:
    world = features([0.3, 0.1, 0.2, 0.4], [0.0] * 4, [0.0] * 4)
    policy = LatencyKnapsack(5.0, head_bits=16, choices=(0, 16)).decide(world)
    assert set(policy.sub_layers) <= {ChannelShares.all_at(0), ChannelShares.all_at(16)}


def test_block_influence_skips_the_least_influential() -> None:
    world = features([1.0] * 4, [0.0] * 4, [0.0] * 4, influence=[0.4, 0.1, 0.2, 0.3])
    policy = BlockInfluenceSkip(2, bits=8).decide(world)
    assert [shares.is_skipped for shares in policy.sub_layers] == [False, True, True, False]
    assert policy.head_bits == 8
    with pytest.raises(PolicyError):
        BlockInfluenceSkip(4).decide(world)


def test_protected_ends_are_never_skipped() -> None:
    drop = [float(i) for i in range(8)]
    world = features(drop, drop, drop)
    policy = BlockInfluenceSkip(4, protected=end_sub_layers(4)).decide(world)
    assert [shares.is_skipped for shares in policy.sub_layers] == [False, False, True, True, True, True, False, False]


def test_uniform_and_random_policies_fit_the_model() -> None:
    world = features([0.1] * 4, [0.1] * 4, [0.1] * 4)
    assert UniformBits(8).decide(world) == DraftPolicy.uniform(2, 8)
    for seed in range(50):
        policy = RandomPolicy(seed).decide(world)
        policy.check(2, 4)
        assert policy.num_skipped < 4
    assert RandomPolicy(3).decide(world) == RandomPolicy(3).decide(world)


def test_features_survive_json() -> None:
    world = features([0.1, 0.2, 0.3, 0.4], [0.0] * 4, [0.0] * 4)
    assert PolicyFeatures.from_json(world.to_json()) == world


def test_shares_are_charged_pro_rata() -> None:
    world = features([0.4] * 4, [0.2] * 4, [0.1] * 4)
    policy = DraftPolicy.uniform(2).replace({1: ChannelShares(full=8, four=4)})
    assert world.step_ms(policy) == pytest.approx(1.0 + 1 + 1 + 2 + 0.5 * 2 + 0.25 * 0.7)
    assert world.policy_loss(policy) == pytest.approx(0.25 * 0.2 + 0.25 * 0.4)
