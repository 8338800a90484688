"""Search spaces: every point fits the model; codecs turn back what they wrote."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autodraft.cascade import Cascade, PromptLookup, SelfDraft
from autodraft.errors import PolicyError
from autodraft.policies.features import PolicyFeatures
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.policy_text import decode_policy, encode_policy
from autodraft.search.codec import cascade_digest, describe
from autodraft.search.evolution import Mutator
from autodraft.search.space import ProxySpace, RawSpace, narrowed, narrower
from autodraft.search.testing import PlantedEvaluator

FEATURES = PlantedEvaluator(4).features
NARROWED = replace(FEATURES, narrowing={8: (0.04, 0.001, 0.002, 0.003), 3: (0.06, 0.01, 0.02, 0.03)})
SPACES = [
    ProxySpace(FEATURES),
    ProxySpace(NARROWED, protect_ends=True),
    RawSpace(FEATURES),
    RawSpace(FEATURES, protect_ends=True),
]


@pytest.mark.parametrize("space", SPACES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_point_is_feasible(space: ProxySpace | RawSpace, data: st.DataObject) -> None:
    params = {name: data.draw(st.integers(r.low, r.high)) for name, r in space.distributions.items()}
    policy = space.decode(params)
    policy.check(4, 4)
    assert policy.num_skipped < 8
    assert policy == space.decode(params)


def test_protected_ends_survive_the_extreme_points() -> None:
    for space in (SPACES[1], SPACES[3]):
        params = {name: r.low if isinstance(space, RawSpace) else r.high for name, r in space.distributions.items()}
        shares = space.decode(params).sub_layers
        assert all(not shares[index].is_skipped for index in (0, 1, 6, 7))


def test_proxy_space_reaches_the_usual_policies() -> None:
    space = ProxySpace(FEATURES)
    assert space.decode(space.point()).is_full
    for bits in (8, 4):
        assert space.decode(space.point(bits=bits)) == DraftPolicy.uniform(4, bits)
    cheapest = min(range(0, 8, 2), key=lambda index: FEATURES.loss(index, 0))
    assert space.decode(space.point(skipped=(1, 0))).sub_layers[cheapest].is_skipped


def test_raw_space_encodes_what_it_decodes() -> None:
    space = RawSpace(FEATURES)
    policy = DraftPolicy.uniform(4, 8).replace({3: ChannelShares(), 5: ChannelShares.all_at(4)}, head_bits=4)
    assert space.decode(space.encode(policy)) == policy
    assert space.encode(policy.replace({1: ChannelShares(full=8, four=8)})) == {}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_mutations_fit_and_change(seed: int, mixed: bool) -> None:
    mutator = Mutator(NARROWED, seed, protected=frozenset((0, 1)))
    policy = DraftPolicy.uniform(4, 8)
    for _ in range(20):
        policy = mutator.mix_channels(policy) if mixed else mutator.mutate(policy)
        policy.check(4, 4)
        assert policy.num_skipped < 8 and not policy.sub_layers[0].is_skipped


def test_mutations_narrow_where_it_is_known_what_that_loses() -> None:
    def reached(features: PolicyFeatures) -> set[int]:
        mutator, policies = Mutator(features, 0), [DraftPolicy.uniform(4, 4)]
        for _ in range(300):
            policies.append(mutator.mutate(policies[-1]))
        return {shares.dropped for policy in policies for shares in policy.sub_layers[1::2]}

    assert reached(FEATURES) <= {0, 16}
    assert len(reached(NARROWED)) > 5


def test_a_change_of_bits_leaves_the_neurons() -> None:
    narrow = DraftPolicy.uniform(4, 4).replace(dict.fromkeys(range(8), ChannelShares(four=5)))
    mutator = Mutator(FEATURES, 1)
    for _ in range(50):
        changed = mutator._change_bits(narrow)
        assert all(shares.dropped in (11, 16) for shares in changed.sub_layers) and changed != narrow


def test_narrowing_touches_only_mlps_and_takes_the_cheapest_neurons() -> None:
    """Against all ways to drop so many sixteenths from four MLPs."""
    whole = DraftPolicy.uniform(4, 8)
    assert narrowed(NARROWED, whole, 0) == whole
    for count in (1, 7, 20):
        policy = narrowed(NARROWED, whole, count)
        assert policy.sub_layers[::2] == whole.sub_layers[::2]
        dropped = [shares.dropped for shares in policy.sub_layers[1::2]]
        ways = (way for way in product(range(16), repeat=4) if sum(way) == count)
        shares_of = [ChannelShares(eight=16 - units) for units in range(16)]
        losses = [[NARROWED.shares_loss(2 * block + 1, shares) for shares in shares_of] for block in range(4)]
        best = min(sum(losses[block][units] for block, units in enumerate(way)) for way in ways)
        assert sum(losses[block][units] for block, units in enumerate(dropped)) == pytest.approx(best)
    assert [shares.eight for shares in narrowed(NARROWED, whole, 100).sub_layers[1::2]] == [1] * 4


def test_narrower_keeps_one_part_and_no_more_than_all() -> None:
    assert narrower(ChannelShares(four=9), 3) == ChannelShares(four=6)
    assert narrower(ChannelShares(four=9), 30) == ChannelShares(four=1)
    assert narrower(ChannelShares(full=9), -30) == ChannelShares.all_at(16)


shares = st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 6)).map(lambda units: ChannelShares(*units))


@given(st.lists(shares, min_size=2, max_size=8).filter(lambda flat: len(flat) % 2 == 0), st.sampled_from((4, 8, 16)))
def test_policy_strings_turn_back(flat: list[ChannelShares], head_bits: int) -> None:
    policy = DraftPolicy.from_sub_layers(flat, head_bits)
    assert decode_policy(encode_policy(policy)) == policy


@pytest.mark.parametrize(
    "text", ["", "FF", "FX | head 8", "FF | head x", "F(8/4) | head 8", "F(17)F | head 8", "F.(8) | head 8"]
)
def test_other_strings_are_refused(text: str) -> None:
    with pytest.raises(PolicyError):
        decode_policy(text)


def test_cascades_are_told_apart_and_described() -> None:
    draft = SelfDraft(policy=DraftPolicy.uniform(2, 8), num_draft_tokens=5, stop_threshold=0.5)
    cascades = [Cascade(), Cascade(drafts=(PromptLookup(),)), Cascade(drafts=(PromptLookup(), draft))]
    assert len({cascade_digest(cascade) for cascade in cascades}) == 3
    assert describe(cascades[0]) == "autoregressive"
    assert "lookup(n=8" in describe(cascades[2]) and "stop<0.5" in describe(cascades[2])
