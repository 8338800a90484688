"""Gumbel noise: its law, and that it depends on seed and position only."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from autodraft.decoding.noise import DeviceNoise, HostNoise, to_gumbel

STREAMS = {"host": HostNoise, "device": partial(DeviceNoise, device=torch.device("cpu"))}
kinds = pytest.mark.parametrize("stream_of", STREAMS.values(), ids=STREAMS)


def _gumbel(integers, library=np):
    values = np.array(integers, dtype=np.uint32).astype(np.float32)
    to_gumbel(values if library is np else torch.from_numpy(values), library)
    return values


@pytest.mark.parametrize("library", [np, torch], ids=["numpy", "torch"])
def test_numbers_are_the_quantiles_of_gumbels_distribution(library):
    """Down to the finest step in the right tail, which decides the largest score."""
    integers = np.unique(np.geomspace(1, 2**32 - 1, 400).astype(np.uint32))
    expected = stats.gumbel_r.isf((integers.astype(np.float64) + 0.5) / 2**32)
    right = expected > 0
    assert np.allclose(_gumbel(integers, library)[right], expected[right], rtol=1e-5)
    assert np.allclose(_gumbel(integers, library)[:-1], expected[:-1], atol=2e-4)


def test_the_extremes_are_finite():
    assert _gumbel([0, 2**32 - 1]) == pytest.approx([33 * np.log(2), -np.log(24 * np.log(2))], rel=1e-5)


@kinds
@pytest.mark.parametrize("vocab_size", [4, 5, 4096])
def test_the_stream_has_gumbels_law_and_independent_positions(stream_of, vocab_size):
    count = 80_000 // vocab_size
    rows = np.asarray(stream_of(12, vocab_size).rows(0, count))
    assert rows.shape == (count, vocab_size) and rows.dtype == np.float32 and rows.flags.c_contiguous
    assert stats.kstest(rows.ravel(), stats.gumbel_r.cdf).pvalue > 0.001
    uniform = stats.gumbel_r.cdf(rows)
    for a, b in [(uniform[1:], uniform[:-1]), (uniform[:, 1:], uniform[:, :-1])]:
        assert stats.pearsonr(a.ravel(), b.ravel()).pvalue > 0.001


def test_a_device_draws_all_bits_of_a_number():
    """Small numbers have all of theirs, which a detour over signed ones would take from them."""
    values = torch.cat([DeviceNoise(seed, 2**16, torch.device("cpu")).rows(0, 16).flatten() for seed in range(8)])
    largest = values.double().sort().values[-200:]
    assert len(torch.unique(largest)) == 200
    assert stats.kstest(np.exp(-largest.numpy()) * len(values), stats.uniform(0, 200).cdf).pvalue > 0.001


@kinds
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 40), st.integers(0, 3)), max_size=12),
    st.sampled_from([1, 3, 8]),
)
def test_rows_depend_on_seed_and_position_only_and_stay_as_they_are(stream_of, requests, vocab_size):
    stream = stream_of(5, vocab_size)
    whole = np.asarray(stream_of(5, vocab_size).rows(0, 12 * 3 + 12 + 40)).copy()
    released, given_out = 0, []
    for ahead, count, step in requests:
        rows = stream.rows(released + ahead, count)
        given_out.append((rows, released + ahead))
        released += step
        stream.release(released)
    for rows, first in given_out:
        assert np.array_equal(rows, whole[first : first + len(rows)])


@kinds
def test_seeds_differ_and_none_is_random(stream_of):
    first = stream_of(0, 6).rows(0, 1)
    assert not np.array_equal(stream_of(1, 6).rows(0, 1), first)
    assert not np.array_equal(stream_of(None, 6).rows(0, 1), stream_of(None, 6).rows(0, 1))
    for seed in (-1, 2**63 - 2, 2**70):
        assert np.array_equal(stream_of(seed, 6).rows(0, 1), stream_of(seed, 6).rows(0, 1))


@kinds
def test_memory_is_bounded_by_what_is_not_released(stream_of):
    stream = stream_of(0, 10)
    for position in range(0, 4000, 3):
        stream.rows(position, 5)
        stream.release(position + 3)
    assert len(stream._block) <= 64


@kinds
def test_released_positions_are_gone(stream_of):
    stream = stream_of(0, 3)
    stream.release(4)
    assert np.array_equal(stream.rows(4, 2), stream_of(0, 3).rows(4, 2))
    with pytest.raises(ValueError, match="position 3 was released"):
        stream.rows(3, 2)
