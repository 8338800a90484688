"""Gumbel noise: its law, and that it depends on seed and position only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from autodraft.decoding.noise import NoiseStream, gumbel


def _gumbel(integers):
    values = np.empty(len(integers), dtype=np.float32)
    gumbel(np.array(integers, dtype=np.uint32), values)
    return values


def test_numbers_are_the_quantiles_of_gumbels_distribution():
    """Down to the finest step in the right tail, which decides the largest score."""
    integers = np.unique(np.geomspace(1, 2**32 - 1, 400).astype(np.uint32))
    expected = stats.gumbel_r.isf((integers.astype(np.float64) + 0.5) / 2**32)
    right = expected > 0
    assert np.allclose(_gumbel(integers)[right], expected[right], rtol=1e-5)
    assert np.allclose(_gumbel(integers)[:-1], expected[:-1], atol=2e-4)


def test_the_extremes_are_finite():
    assert _gumbel([0, 2**32 - 1]) == pytest.approx([33 * np.log(2), -np.log(24 * np.log(2))], rel=1e-5)


@pytest.mark.parametrize("vocab_size", [4, 5, 4096])
def test_the_stream_has_gumbels_law_and_independent_positions(vocab_size):
    count = 80_000 // vocab_size
    rows = NoiseStream(12, vocab_size).rows(0, count)
    assert rows.shape == (count, vocab_size) and rows.dtype == np.float32 and rows.flags.c_contiguous
    assert stats.kstest(rows.ravel(), stats.gumbel_r.cdf).pvalue > 0.001
    uniform = stats.gumbel_r.cdf(rows)
    for a, b in [(uniform[1:], uniform[:-1]), (uniform[:, 1:], uniform[:, :-1])]:
        assert stats.pearsonr(a.ravel(), b.ravel()).pvalue > 0.001


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 40), st.integers(0, 3)), max_size=12),
    st.sampled_from([1, 3, 8]),
)
def test_rows_depend_on_seed_and_position_only_and_stay_as_they_are(requests, vocab_size):
    stream = NoiseStream(5, vocab_size)
    whole = NoiseStream(5, vocab_size).rows(0, 12 * 3 + 12 + 40).copy()
    released, given_out = 0, []
    for ahead, count, step in requests:
        rows = stream.rows(released + ahead, count)
        given_out.append((rows, released + ahead))
        released += step
        stream.release(released)
    for rows, first in given_out:
        assert np.array_equal(rows, whole[first : first + len(rows)])


def test_seeds_differ_and_none_is_random():
    first = NoiseStream(0, 6).rows(0, 1)
    assert not np.array_equal(NoiseStream(1, 6).rows(0, 1), first)
    assert not np.array_equal(NoiseStream(None, 6).rows(0, 1), NoiseStream(None, 6).rows(0, 1))
    for seed in (-1, 2**63 - 2, 2**70):
        assert np.array_equal(NoiseStream(seed, 6).rows(0, 1), NoiseStream(seed, 6).rows(0, 1))


def test_memory_is_bounded_by_what_is_not_released():
    stream = NoiseStream(0, 10)
    for position in range(0, 4000, 3):
        rows = stream.rows(position, 5)
        stream.release(position + 3)
    assert len(rows.base) <= 32


def test_released_positions_are_gone():
    stream = NoiseStream(0, 3)
    stream.release(4)
    assert np.array_equal(stream.rows(4, 2), NoiseStream(0, 3).rows(4, 2))
    with pytest.raises(ValueError, match="position 3 was released"):
        stream.rows(3, 2)
