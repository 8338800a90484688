"""`CascadeDecoder`: one loop in which a drafter proposes a token tree and the target verifies it in one forward.

Knows nothing of search, of text or of how a draft is made; autoregressive decoding is the case of a tree with only the
root. Whatever the cascade, greedy output is the target's own, and sampled output is the one that autoregressive
decoding gives for the same seed (up to rounding, where the runtime's rows are not invariant).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import torch

from autodraft.cascade import AUTOREGRESSIVE, Cascade, Draft, PromptLookup
from autodraft.decoding.drafters import DraftContext, Drafter
from autodraft.decoding.prompt_lookup import PromptLookupDrafter
from autodraft.decoding.sampling import GREEDY, SamplingConfig, SeenTokens, UniformStream, penalise, probabilities
from autodraft.decoding.self_draft import SelfDrafter
from autodraft.decoding.stats import DecodingStats, DraftCounts, FinishReason, Generation, StopCondition
from autodraft.decoding.tree import TokenTree
from autodraft.decoding.verification import Verified, verify_greedy, verify_sampled
from autodraft.errors import ContextLengthError, InputError
from autodraft.runtime import LoadedModel, TransformerRuntime

if TYPE_CHECKING:
    from autodraft.profile import DraftProfile


def make_drafter(draft: Draft, runtime: TransformerRuntime) -> Drafter:
    """The drafter that a draft of a cascade describes."""
    return PromptLookupDrafter(draft) if isinstance(draft, PromptLookup) else SelfDrafter(runtime, draft)


class TargetChoice:
    """Which token the target chooses at each node of a tree, by the settings and the seed of one generation."""

    def __init__(
        self, sampling: SamplingConfig, seed: int | None, prompt: Sequence[int], vocab_size: int, device: torch.device
    ) -> None:
        self._sampling = sampling
        self._uniforms = UniformStream(seed)
        self._num_new = 0
        self._seen = SeenTokens(prompt, vocab_size, device) if sampling.repetition_penalty != 1.0 else None

    def verify(self, tree: TokenTree, logits: torch.Tensor) -> Verified:
        """Verify `tree` against the target's logits at its nodes. [n, vocab]"""
        seen = self._seen.rows(tree.tokens, tree.parents) if self._seen else None
        if self._sampling.is_greedy:
            return verify_greedy(tree, penalise(logits, self._sampling.repetition_penalty, seen))
        uniforms = [self._uniforms.at(self._num_new + depth) for depth in range(tree.depth + 1)]
        return verify_sampled(tree, probabilities(logits, self._sampling, seen), uniforms)

    def commit(self, tokens: Sequence[int]) -> None:
        """Note tokens that are now part of the output."""
        self._num_new += len(tokens)
        if self._seen:
            self._seen.add(tokens)


class _Output:
    """The new tokens, and when they end."""

    def __init__(self, max_new_tokens: int, eos: Collection[int], stop: StopCondition | None) -> None:
        self.tokens: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._max_new_tokens = max_new_tokens
        self._eos = frozenset(eos)
        self._stop = stop

    @property
    def remaining(self) -> int:
        return self._max_new_tokens - len(self.tokens)

    def extend(self, tokens: Sequence[int]) -> int:
        """Append `tokens` up to the one that ends the output; returns how many were appended."""
        for count, token in enumerate(tokens, start=1):
            self.tokens.append(token)
            if token in self._eos:
                self.finish_reason = "eos"
            elif self._stop is not None and self._stop(self.tokens):
                self.finish_reason = "stop"
            elif not self.remaining:
                self.finish_reason = "length"
            if self.finish_reason is not None:
                return count
        return len(tokens)


class CascadeDecoder:
    """Decodes one sequence at a time with a target and a cascade of drafts.

    Owns one KV cache, which target and drafts share and which each call of `generate` starts anew. Not thread-safe.

    Args:
        runtime: the target.
        cascade: the drafts; none means autoregressive decoding.
        drafters: drafters of your own in place of those that `cascade` describes.
    """

    def __init__(
        self,
        runtime: TransformerRuntime,
        cascade: Cascade = AUTOREGRESSIVE,
        *,
        drafters: Sequence[Drafter] | None = None,
    ) -> None:
        self.runtime = runtime
        self.cascade = cascade
        if drafters is None:
            drafters = [make_drafter(draft, runtime) for draft in cascade.drafts]
        self.drafters = list(drafters)
        self._cache = runtime.new_cache()

    @classmethod
    def from_profile(cls, loaded: LoadedModel, profile: DraftProfile) -> CascadeDecoder:
        """The decoder that a profile describes; `ProfileError` unless it was made for this very model."""
        spec = loaded.runtime.spec
        profile.check_target(loaded.fingerprint, spec.num_blocks, spec.num_kv_heads, loaded.widen)
        return cls(loaded.runtime, profile.cascade)

    @property
    def max_length(self) -> int:
        """Tokens of prompt and output together that there is room for."""
        return min(self._cache.capacity, self.runtime.max_length, self.runtime.spec.max_positions)

    @torch.inference_mode()
    def generate(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: SamplingConfig = GREEDY,
        eos: Collection[int] = (),
        stop: StopCondition | None = None,
        on_tokens: Callable[[list[int]], None] | None = None,
        seed: int | None = None,
    ) -> Generation:
        """Continue a prompt.

        Args:
            prompt: token ids, at least one.
            max_new_tokens: new tokens at most.
            sampling: how tokens are chosen; greedy by default.
            eos: token ids that end the output (they are part of it).
            stop: a further condition, asked after each new token, for example `StopStrings`.
            on_tokens: called with the tokens of each cycle as they are committed.
            seed: makes sampled output reproducible, whatever the cascade; None is random.
        """
        self._check(prompt, max_new_tokens)
        runtime, cache = self.runtime, self._cache
        stats = DecodingStats(drafts=[DraftCounts() for _ in self.drafters])
        context = DraftContext(list(prompt), cache)
        output = _Output(max_new_tokens, eos, stop)
        choice = TargetChoice(sampling, seed, prompt, runtime.spec.vocab_size, runtime.device)
        self._prefill(context, stats)

        started = time.perf_counter()
        while output.finish_reason is None:
            context.max_depth = output.remaining - 1
            context.max_nodes = cache.capacity - len(context.tokens)
            tree, draft = self._propose(context, stats)

            verify_started = time.perf_counter()
            logits = runtime.forward(runtime.target, cache, tree.rows(cache.length))
            path, bonus_token = choice.verify(tree, logits)
            cache.commit([cache.length + node for node in path])
            stats.verify_s += time.perf_counter() - verify_started

            tokens = [*(tree.tokens[node] for node in path[1:]), bonus_token]
            context.tokens += tokens
            choice.commit(tokens)
            emitted = output.extend(tokens)
            stats.count_cycle(emitted)
            if draft is not None:
                stats.count_draft(draft, tree.num_drafted, min(emitted, len(path) - 1))
                self.drafters[draft].observe(tree, path)
            if on_tokens is not None:
                on_tokens(tokens[:emitted])
        stats.decode_s = time.perf_counter() - started
        return Generation(output.tokens, output.finish_reason, stats)

    def _check(self, prompt: Sequence[int], max_new_tokens: int) -> None:
        if not prompt:
            raise InputError("the prompt is empty: there is nothing to continue")
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
        vocab_size = self.runtime.spec.vocab_size
        if min(prompt) < 0 or max(prompt) >= vocab_size:
            raise InputError(f"the prompt has token ids outside 0..{vocab_size - 1}: another model's tokenizer?")
        if len(prompt) + max_new_tokens > self.max_length:
            raise ContextLengthError(
                f"{len(prompt)} prompt tokens and {max_new_tokens} new ones are more than the {self.max_length} tokens"
                " of context that there is room for"
            )

    def _prefill(self, context: DraftContext, stats: DecodingStats) -> None:
        """Put all tokens of the prompt but the last into the cache."""
        started = time.perf_counter()
        context.cache.truncate(0)
        if len(context.tokens) > 1:
            self.runtime.prefill(context.cache, context.tokens[:-1])
        for drafter in self.drafters:
            drafter.start(context.tokens)
        if self.runtime.device.type == "cuda":
            torch.cuda.synchronize(self.runtime.device)
        stats.prefill_s = time.perf_counter() - started

    def _propose(self, context: DraftContext, stats: DecodingStats) -> tuple[TokenTree, int | None]:
        """The tree of the first drafter that has one, and that drafter's number; else the root alone."""
        if context.max_depth > 0:
            started = time.perf_counter()
            for number, drafter in enumerate(self.drafters):
                tree = drafter.propose(context)
                if tree is not None:
                    stats.draft_s += time.perf_counter() - started
                    return tree, number
            stats.draft_s += time.perf_counter() - started
        return TokenTree.root_only(context.tokens[-1]), None
