"""Prompt lookup: draft what followed the last tokens when they occurred before, in prompt or output.

Knows nothing of models; costs no forward pass. An index from each n-gram to its last occurrence, and from each
occurrence to the one before, grows with the output, so that a cycle costs a few dictionary look-ups however long the
text is.
"""

from __future__ import annotations

from collections.abc import Sequence

from autodraft.cascade import PromptLookup
from autodraft.decoding.drafters import DraftContext
from autodraft.decoding.tree import TokenTree


class NgramIndex:
    """Earlier occurrences of the n-grams of one length in a growing sequence.

    An occurrence is named by its end: the position of the token that followed it.
    """

    def __init__(self, ngram: int) -> None:
        self.ngram = ngram
        self._last_end: dict[tuple[int, ...], int] = {}
        self._previous_end = [-1] * ngram  # by end: where the same n-gram ended before; ends 0..n-1 do not exist
        self._indexed = ngram  # the first end that is not indexed yet

    def extend(self, tokens: Sequence[int]) -> None:
        """Index the n-grams that something follows, that is, all but the one at the very end of `tokens`."""
        for end in range(self._indexed, len(tokens)):
            key = tuple(tokens[end - self.ngram : end])
            self._previous_end.append(self._last_end.get(key, -1))
            self._last_end[key] = end
        self._indexed = max(self._indexed, len(tokens))

    def find(self, tokens: Sequence[int], num_following: int) -> int | None:
        """End of an earlier occurrence of the last n tokens, or None.

        The most recent one that `num_following` tokens follow; if there is none, the one that most tokens follow.
        """
        if len(tokens) < self.ngram:
            return None
        end = self._last_end.get(tuple(tokens[len(tokens) - self.ngram :]), -1)
        if end < 0:
            return None
        while len(tokens) - end < num_following and self._previous_end[end] >= 0:
            end = self._previous_end[end]
        return end


class PromptLookupDrafter:
    """Copies the tokens that followed the longest match of the last `max_ngram` .. `min_ngram` tokens."""

    def __init__(self, settings: PromptLookup) -> None:
        self.settings = settings
        self._indices: list[NgramIndex] = []

    def start(self, tokens: Sequence[int]) -> None:
        """Index the prompt, outside the time of decoding."""
        lengths = range(self.settings.max_ngram, self.settings.min_ngram - 1, -1)
        self._indices = [NgramIndex(ngram) for ngram in lengths]
        for index in self._indices:
            index.extend(tokens)

    def propose(self, context: DraftContext) -> TokenTree | None:
        tokens = context.tokens
        wanted = min(self.settings.num_draft_tokens, context.max_depth, context.max_nodes)
        for index in self._indices:
            index.extend(tokens)
        for index in self._indices:
            end = index.find(tokens, wanted)
            if end is not None:
                return TokenTree.chain(tokens[-1], tokens[end : end + wanted])
        return None

    def observe(self, tree: TokenTree, path: Sequence[int]) -> None:
        """Nothing to learn: the committed tokens are indexed when they are needed."""
