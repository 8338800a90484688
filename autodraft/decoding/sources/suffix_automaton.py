"""Suffix automaton: copy what followed the longest earlier occurrence of the text's end, however long that is.

The matching of SAM-Decoding (arXiv 2411.10666) over prompt and output. Knows nothing of models or trees. The automaton
is the classic online one (Blumer et al. 1985): amortised constant time per token, at most two states and three
transitions per token of text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import islice

from autodraft.cascade import SuffixAutomaton
from autodraft.decoding.sources.protocol import State

MATCH_BUCKETS = (1, 2, 3, 4, 5, 7, 9, 13, 21)
"""Shortest match of each evidence class: 1, 2, 3, 4, 5-6, 7-8, 9-12, 13-20, 21 or more tokens."""

_CLASS_OF_MATCH = tuple(bisect_right(MATCH_BUCKETS, match) - 1 for match in range(MATCH_BUCKETS[-1] + 1))

# Suffix links followed in one go where the classic bounds do not hold: re-ordering the shorter suffixes, and walking
# with unverified tokens, which many branches of a tree may do from one state. Only text that repeats itself over and
# over has longer ways; there the order of the shortest suffixes becomes stale, and a walk that breaks out of the
# repetition is left with a match of one token.
_MOST_LINKS = 32

_START = 0
_NO_MATCH: State = (_START, 0)


class SuffixAutomatonSource:
    """Proposes the tokens that followed the longest suffix which occurred before, the most recent first.

    A state of the automaton stands for the substrings that end at the same positions of the text; its transitions are
    the tokens that follow there. They are kept in order of recency, the last one newest, which makes end positions
    superfluous: the end of the text has no transition, so nothing is ever matched with itself. A state of the source is
    a state of the automaton and the length of the match.

    The evidence class is that of the match in `MATCH_BUCKETS`; tokens other than the most recent one have classes of
    their own, `len(MATCH_BUCKETS)` higher.
    """

    num_classes = 2 * len(MATCH_BUCKETS)
    top_successors = 0

    def __init__(self, settings: SuffixAutomaton) -> None:
        self.settings = settings
        self.start(())

    def start(self, tokens: Sequence[int]) -> None:
        self._following: list[dict[int, int]] = [{}]  # by state: the state after each following token
        self._link = [-1]  # by state: the state of its longest suffix that also ends elsewhere
        self._length = [0]  # by state: tokens of its longest substring
        self._end = _START  # the state of the whole text
        self._root = _NO_MATCH
        self.commit(tokens)

    def commit(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self._append(token)
        if self._end != _START:
            match = self._link[self._end]  # the longest suffix that ends elsewhere too has occurred before
            self._root = (match, self._length[match])

    def root(self) -> State:
        return self._root

    def step(self, state: State, token: int) -> State:
        node, match = state
        after = self._following[node].get(token)
        if after is None:
            return self._step_from_shorter(node, token)
        # What occurs at the end of the text only has no continuation; its longest suffix that has one is the root's.
        return (after, match + 1) if after != self._end else self._root

    def candidates(self, state: State, most: int) -> Sequence[tuple[int, int]]:
        node, match = state
        if match < self.settings.min_match or most < 1:
            return ()
        evidence = _CLASS_OF_MATCH[match] if match < len(_CLASS_OF_MATCH) else len(MATCH_BUCKETS) - 1
        newest_first = reversed(self._following[node])
        newest = (next(newest_first), evidence)
        if most == 1 or len(self._following[node]) == 1:
            return (newest,)
        return (newest, *[(token, evidence + len(MATCH_BUCKETS)) for token in islice(newest_first, most - 1)])

    def learn(self, tokens: Sequence[int], successors: Sequence[Sequence[int]]) -> None:
        """Nothing to learn: only the text counts."""

    @property
    def num_states(self) -> int:
        return len(self._link)

    @property
    def num_transitions(self) -> int:
        return sum(map(len, self._following))

    def _step_from_shorter(self, node: int, token: int) -> State:
        """The state after `token`, which never followed the match of `node`: it may have followed a shorter suffix."""
        for _ in range(_MOST_LINKS):
            node = self._link[node]
            if node <= _START:
                break
            after = self._following[node].get(token)
            if after is not None:
                return (after, self._length[node] + 1) if after != self._end else self._root
        after = self._following[_START].get(token)
        if after is None:
            return _NO_MATCH
        return (after, 1) if after != self._end else self._root

    def _append(self, token: int) -> None:
        """Extend the text by one token."""
        following, link = self._following, self._link
        new, node = len(link), self._end
        following.append({})
        link.append(_START)
        self._length.append(self._length[node] + 1)
        while node >= 0 and token not in following[node]:
            following[node][token] = new
            node = link[node]
        if node >= 0:
            known = following[node][token]
            is_exact = self._length[known] == self._length[node] + 1
            link[new] = known if is_exact else self._split(node, token, known)
            self._make_newest(node, token)
        self._end = new

    def _split(self, node: int, token: int, known: int) -> int:
        """Give the substrings of `known` that are suffixes of the new text a state of their own.

        So far they were followed by the same tokens in the same order of recency as the longer ones.
        """
        clone = len(self._link)
        self._following.append(self._following[known].copy())
        self._link.append(self._link[known])
        self._length.append(self._length[node] + 1)
        self._link[known] = clone
        while node >= 0 and self._following[node].get(token) == known:
            self._following[node][token] = clone
            node = self._link[node]
        return clone

    def _make_newest(self, node: int, token: int) -> None:
        """Move `token` to the newest place in `node` and the states of its suffixes. (The start is never offered.)"""
        for _ in range(_MOST_LINKS):
            if node == _START:
                return
            followers = self._following[node]
            followers[token] = followers.pop(token)
            node = self._link[node]
