"""`TargetChoice`: which token the target chooses after each node of a tree, for one generation.

Holds what a choice depends on beside the target's logits: the settings, the noise of the seed, the tokens seen so far.
Knows nothing of how a tree was drafted; drafts may have the same noise from it, which makes them agree more often and
changes nothing in the output (see `verification`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autodraft.decoding.noise import noise_stream
from autodraft.decoding.sampling import SamplingConfig, SeenTokens, choose, filtered_scores, penalise
from autodraft.decoding.tree import TokenTree
from autodraft.decoding.verification import Verified, verify_sampled
from autodraft.runtime import ChoiceNoise
from autodraft.runtime.choosing import argmax_tokens


class TargetChoice:
    """The target's choices by the settings and the seed of one generation.

    Args:
        sampling: the settings.
        seed: makes sampling reproducible; None is random.
        prompt: tokens before the first new one.
        vocab_size: tokens of the vocabulary.
        device: where the logits will be.
    """

    def __init__(
        self, sampling: SamplingConfig, seed: int | None, prompt: Sequence[int], vocab_size: int, device: torch.device
    ) -> None:
        self._sampling = sampling
        self._noise = None if sampling.is_greedy else noise_stream(seed, vocab_size, device)
        self._num_new = 0
        self._seen = SeenTokens(prompt, vocab_size, device) if sampling.repetition_penalty != 1.0 else None

    @property
    def is_plain(self) -> bool:
        """Whether each choice is the token of the largest logit, whatever came before."""
        return self._sampling.is_greedy and self._seen is None

    @property
    def is_unfiltered(self) -> bool:
        """Whether each choice is the token of the largest `logit / temperature + noise`, or of the largest logit."""
        return self._seen is None and self._sampling.top_k == 0 and self._sampling.top_p == 1

    def noise(self, depth: int, count: int) -> ChoiceNoise | None:
        """The noise by which tokens at the depths `depth + 1` .. `depth + count` are chosen; None if greedy.

        Row 0 of `noise(0, n)` is that of the root's children.
        """
        if self._noise is None:
            return None
        return ChoiceNoise(self._sampling.temperature, self._noise.rows(self._num_new + depth, count))

    def verify(self, tree: TokenTree, logits: Tensor) -> Verified:
        """Verify `tree` against the target's logits at its nodes. [n, vocab]"""
        return verify_sampled(tree, lambda node, depth: self._choose(tree, node, depth, logits[node : node + 1]))

    def commit(self, tokens: Sequence[int]) -> None:
        """Note tokens that are now part of the output."""
        self._num_new += len(tokens)
        if self._noise:
            self._noise.release(self._num_new)
        if self._seen:
            self._seen.add(tokens)

    def _choose(self, tree: TokenTree, node: int, depth: int, logits: Tensor) -> int:
        """The token after one node, from its own row alone. [1, vocab]"""
        seen = self._seen.on_path([tree.tokens[ancestor] for ancestor in tree.path(node)]) if self._seen else None
        if self._noise is None:
            return argmax_tokens(penalise(logits, self._sampling.repetition_penalty, seen))[0]
        scores = filtered_scores(logits, self._sampling, seen)
        return choose(scores[0], self._noise.rows(self._num_new + depth, 1)[0])
