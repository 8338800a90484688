"""Prompt lookup: copy what followed the last tokens when they occurred before, in prompt or output.

Knows nothing of models or trees. An index from each n-gram to its last occurrence, and from each occurrence to the one
before, grows with the output, so that a look-up costs a few dictionary accesses however long the text is.
"""

from __future__ import annotations

from collections.abc import Sequence

from autodraft.cascade import PromptLookup
from autodraft.decoding.sources.protocol import State

_NO_MATCH: State = (0, 0)


class NgramIndex:
    """Earlier occurrences of the n-grams of one length in a growing text.

    An occurrence is named by its end: the position of the token that followed it.
    """

    def __init__(self, ngram: int) -> None:
        self.ngram = ngram
        self._last_end: dict[tuple[int, ...], int] = {}
        self._previous_end = [-1] * ngram  # by end: where the same n-gram ended before; ends 0..n-1 do not exist
        self._indexed = ngram  # the first end that is not indexed yet

    def extend(self, tokens: Sequence[int]) -> None:
        """Index the n-grams of the text `tokens` that something follows: all but the one at its very end."""
        ngram, last_end, previous_end = self.ngram, self._last_end, self._previous_end
        for end in range(self._indexed, len(tokens)):
            key = tuple(tokens[end - ngram : end])
            previous_end.append(last_end.get(key, -1))
            last_end[key] = end
        self._indexed = max(self._indexed, len(tokens))

    def find(self, ngram: tuple[int, ...], num_following: int) -> int | None:
        """End of an occurrence of `ngram` in the text, or None.

        The most recent one that `num_following` tokens follow; if there is none, the one that most tokens follow.
        """
        end = self._last_end.get(ngram)
        if end is None:
            return None
        while self._indexed - end < num_following and self._previous_end[end] >= 0:
            end = self._previous_end[end]
        return end


class PromptLookupSource:
    """Proposes the token that followed the longest match of the last `max_ngram` .. `min_ngram` tokens.

    A state is the position of the next token to copy, and how many tokens before it are known to agree (at most
    `max_ngram`; 0: no match). A walk follows the copied run; where a token departs from it, or the run reaches the end
    of the text, the last tokens are looked up again. What agrees is all that this needs to know of them: no longer
    suffix occurs in the text with something after it. For the same reason matches below `min_ngram` are followed too,
    without being offered.

    The evidence class is the number of tokens that agree, less `min_ngram`.
    """

    top_successors = 0

    def __init__(self, settings: PromptLookup) -> None:
        self.settings = settings
        self.num_classes = settings.max_ngram - settings.min_ngram + 1
        self._tokens: list[int] = []
        self._indices: list[NgramIndex] = []
        self._root = _NO_MATCH

    def start(self, tokens: Sequence[int]) -> None:
        """Index the prompt."""
        self._tokens = []
        self._indices = [NgramIndex(ngram) for ngram in range(1, self.settings.max_ngram + 1)]
        self.commit(tokens)

    def commit(self, tokens: Sequence[int]) -> None:
        self._tokens += tokens
        for index in self._indices:
            index.extend(self._tokens)
        self._root = self._look_up(tuple(self._tokens[-self.settings.max_ngram :]))

    def root(self) -> State:
        return self._root

    def step(self, state: State, token: int) -> State:
        position, agreeing = state
        max_ngram = self.settings.max_ngram
        if not agreeing:
            return self._look_up((token,))
        if self._tokens[position] != token:
            before = self._tokens[position - min(agreeing, max_ngram - 1) : position]
            return self._look_up((*before, token))
        if position + 1 == len(self._tokens):  # those that agree are the last ones of the text
            return self._root if agreeing + 1 >= max_ngram else self._look_up(tuple(self._tokens[-agreeing - 1 :]))
        return position + 1, agreeing + 1 if agreeing < max_ngram else max_ngram

    def candidates(self, state: State, most: int) -> Sequence[tuple[int, int]]:
        position, agreeing = state
        evidence = agreeing - self.settings.min_ngram
        return ((self._tokens[position], evidence),) if evidence >= 0 and most > 0 else ()

    def learn(self, tokens: Sequence[int], successors: Sequence[Sequence[int]]) -> None:
        """Nothing to learn: only the text counts."""

    def _look_up(self, recent: tuple[int, ...]) -> State:
        """The state after `recent`, the last tokens (at most `max_ngram`)."""
        for ngram in range(len(recent), 0, -1):
            end = self._indices[ngram - 1].find(recent[-ngram:], self.settings.num_draft_tokens)
            if end is not None:
                return end, ngram
        return _NO_MATCH
