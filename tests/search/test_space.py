"""Search spaces: every point fits the model; codecs turn back what they wrote."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autodraft.cascade import Cascade, PromptLookup, SelfDraft
from autodraft.errors import PolicyError
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.policy_text import decode_policy, encode_policy
from autodraft.search.codec import cascade_digest, describe
from autodraft.search.evolution import Mutator
from autodraft.search.space import ProxySpace, RawSpace, drop_ffn_channels
from autodraft.search.testing import PlantedEvaluator

FEATURES = PlantedEvaluator(4).features
SPACES = [
    ProxySpace(FEATURES),
    ProxySpace(FEATURES, protect_ends=True, max_ffn_dropped=4),
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
    mutator = Mutator(FEATURES, seed, protected=frozenset((0, 1)))
    policy = DraftPolicy.uniform(4, 8)
    for _ in range(20):
        policy = mutator.mix_channels(policy) if mixed else mutator.mutate(policy)
        policy.check(4, 4)
        assert policy.num_skipped < 8 and not policy.sub_layers[0].is_skipped


def test_dropped_channels_touch_only_mlps() -> None:
    policy = drop_ffn_channels(DraftPolicy.uniform(4, 8), 3)
    assert [shares.dropped for shares in policy.sub_layers] == [0, 3] * 4


shares = st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 6)).map(lambda units: ChannelShares(*units))


@given(st.lists(shares, min_size=2, max_size=8).filter(lambda flat: len(flat) % 2 == 0), st.sampled_from((4, 8, 16)))
def test_policy_strings_turn_back(flat: list[ChannelShares], head_bits: int) -> None:
    policy = DraftPolicy.from_sub_layers(flat, head_bits)
    assert decode_policy(encode_policy(policy)) == policy


@pytest.mark.parametrize("text", ["", "FF", "FX | head 8", "FF | head x", "F(8/4) | head 8"])
def test_other_strings_are_refused(text: str) -> None:
    with pytest.raises(PolicyError):
        decode_policy(text)


def test_cascades_are_told_apart_and_described() -> None:
    draft = SelfDraft(policy=DraftPolicy.uniform(2, 8), num_draft_tokens=5, stop_threshold=0.5)
    cascades = [Cascade(), Cascade(drafts=(PromptLookup(),)), Cascade(drafts=(PromptLookup(), draft))]
    assert len({cascade_digest(cascade) for cascade in cascades}) == 3
    assert describe(cascades[0]) == "autoregressive"
    assert "lookup(n=8" in describe(cascades[2]) and "stop<0.5" in describe(cascades[2])
