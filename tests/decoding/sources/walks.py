"""Random texts, and walks over a source."""

from collections.abc import Sequence

from hypothesis import strategies as st

from autodraft.decoding.sources import TokenSource

RANDOM_TEXTS = st.lists(st.integers(0, 3), min_size=1, max_size=30)
REPEATED_TEXTS = st.builds(
    lambda head, period, times, tail: (head + period * times + tail)[-30:],
    st.lists(st.integers(0, 3), max_size=4),
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
    st.integers(2, 12),
    st.lists(st.integers(0, 3), max_size=4),
)
TEXTS = st.one_of(RANDOM_TEXTS, REPEATED_TEXTS)
"""Texts of 1 to 30 tokens out of 4: random ones, and ones that repeat themselves."""


def candidates_along(source: TokenSource, walk: Sequence[int], most: int) -> list[list[tuple[int, int]]]:
    """The candidates at the root and after each token of `walk`."""
    state = source.root()
    every = [list(source.candidates(state, most))]
    for token in walk:
        state = source.step(state, token)
        every.append(list(source.candidates(state, most)))
    return every
