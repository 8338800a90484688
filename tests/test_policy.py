"""`DraftPolicy` and `ChannelShares`: values that round-trip, share out every channel once, and refuse nonsense."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autodraft.errors import PolicyError
from autodraft.policy import BIT_WIDTHS, SHARE_UNITS, BlockPolicy, ChannelShares, DraftPolicy


@st.composite
def channel_shares(draw):
    full = draw(st.integers(0, SHARE_UNITS))
    eight = draw(st.integers(0, SHARE_UNITS - full))
    return ChannelShares(full, eight, draw(st.integers(0, SHARE_UNITS - full - eight)))


policies = st.builds(
    DraftPolicy,
    st.lists(st.builds(BlockPolicy, channel_shares(), channel_shares()), min_size=1, max_size=6).map(tuple),
    st.sampled_from([4, 8, 16]),
)


@given(policies)
def test_json_round_trip_keeps_value_and_digest(policy):
    again = DraftPolicy.from_json(json.loads(json.dumps(policy.to_json())))
    assert again == policy and hash(again) == hash(policy) and again.digest == policy.digest


@given(policies, policies)
def test_digests_tell_policies_apart(one, other):
    assert (one.digest == other.digest) == (one == other)


@given(channel_shares(), st.integers(1, 5000))
def test_segments_cover_the_kept_channels_once_in_order(shares, num_channels):
    segments = shares.segments(num_channels)
    edges = [0, *(stop for _, _, stop in segments)]
    assert [start for _, start, _ in segments] == edges[:-1]
    assert edges[-1] == round(num_channels * (SHARE_UNITS - shares.dropped) / SHARE_UNITS)
    bits = [bits for bits, _, _ in segments]
    assert bits == sorted(bits, reverse=True) and len(set(bits)) == len(bits)


@given(channel_shares())
def test_units_add_up(shares):
    assert sum(shares.units_at(bits) for bits in BIT_WIDTHS) == SHARE_UNITS
    assert shares.mean_bits == sum(bits * shares.units_at(bits) for bits in BIT_WIDTHS) / SHARE_UNITS


@given(policies, st.integers(0, 11), channel_shares())
def test_replacing_changes_one_sub_layer(policy, index, shares):
    index %= 2 * len(policy.blocks)
    changed = policy.replace({index: shares})
    assert changed.sub_layers[index] == shares
    rest = [at for at in range(len(policy.sub_layers)) if at != index]
    assert [changed.sub_layers[at] for at in rest] == [policy.sub_layers[at] for at in rest]


def test_the_target_is_the_full_policy():
    full = DraftPolicy.uniform(4)
    assert full.is_full and full.num_skipped == 0 and full.mean_bits == 16
    assert not full.replace({3: ChannelShares()}).is_full
    assert not DraftPolicy.uniform(4, head_bits=8).is_full
    assert (
        str(
            full.replace(
                {3: ChannelShares(), 0: ChannelShares.all_at(4), 5: ChannelShares(full=3), 7: ChannelShares(8, 4)}
            )
        )
        == "4F F. FF(3) Fm, head 16"
    )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"blocks": []}, "exactly the fields"),
        ({"blocks": [], "head_bits": 16}, "at least one block"),
        ({"blocks": [{"attention": {}}], "head_bits": 16}, "block 0"),
        ({"blocks": [{"attention": {}, "mlp": {"5": 1.0}}], "head_bits": 16}, "unknown bit-width '5'"),
        ({"blocks": [{"attention": {}, "mlp": {"8": 0.3}}], "head_bits": 16}, "whole number of sixteenths"),
        ({"blocks": [{"attention": {}, "mlp": {"8": 1.0, "4": 0.5}}], "head_bits": 16}, "at most 1"),
        ({"blocks": [{"attention": {}, "mlp": {"8": True}}], "head_bits": 16}, "whole number of sixteenths"),
        ({"blocks": [{"attention": {}, "mlp": {}}], "head_bits": 0}, "head_bits is 0"),
        ({"blocks": 3, "head_bits": 8}, "is a list"),
        ([], "a policy is an object"),
    ],
)
def test_nonsense_is_refused_with_its_reason(document, message):
    with pytest.raises(PolicyError, match=message):
        DraftPolicy.from_json(document)


def test_a_policy_must_fit_the_model():
    policy = DraftPolicy.uniform(2).replace({2: ChannelShares(full=4)})
    policy.check(2, 4)
    with pytest.raises(PolicyError, match="2 blocks, the model has 3"):
        policy.check(3, 4)
    with pytest.raises(PolicyError, match="no whole number of heads"):
        policy.check(2, 2)
