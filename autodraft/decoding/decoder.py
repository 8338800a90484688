"""`CascadeDecoder`: one loop in which a drafter proposes a token tree and the target verifies it in one forward.

Knows nothing of search, of text or of how a draft is made; autoregressive decoding is the case of a tree with only the
root. Whatever the cascade, greedy output is the target's own, and sampled output is the one that autoregressive
decoding gives for the same seed (up to rounding, where the runtime's rows are not invariant).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import torch

from autodraft.cascade import AUTOREGRESSIVE, Cascade
from autodraft.decoding.choice import TargetChoice
from autodraft.decoding.drafters import DraftContext, Drafter, Outcome, Standing
from autodraft.decoding.prompt_cache import PromptCache
from autodraft.decoding.repetition import MOST_TOKENS, UNNOTICED_S, Repetition
from autodraft.decoding.sampling import GREEDY, SamplingConfig
from autodraft.decoding.scheduled import ScheduledDrafter
from autodraft.decoding.stats import DecodingStats, DraftCounts, FinishReason, Generation, StopCondition
from autodraft.decoding.tree import TokenTree
from autodraft.decoding.verification import verify_choices
from autodraft.errors import ContextLengthError, InputError
from autodraft.runtime import ChainStop, Cycle, LoadedModel, TransformerRuntime

if TYPE_CHECKING:
    from autodraft.profile import DraftProfile
    from autodraft.profile_parts import Priors


OnTokens = Callable[[list[int]], None]


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

    Target and drafts share one KV cache, which each call of `generate` starts anew, or from what a `prompt_cache`
    remembers of the prompt. Not thread-safe.

    Args:
        runtime: the target.
        cascade: the drafts and their scheduler; none means autoregressive decoding.
        priors: what a search measured of the cascade's drafts, where one did.
        drafter: a drafter of your own in place of the one that `cascade` describes.
        prompt_cache: keys of texts before, of this decoder or of others.
    """

    def __init__(
        self,
        runtime: TransformerRuntime,
        cascade: Cascade = AUTOREGRESSIVE,
        *,
        priors: Priors | None = None,
        drafter: Drafter | None = None,
        prompt_cache: PromptCache | None = None,
    ) -> None:
        self.runtime = runtime
        self.cascade = cascade
        if drafter is None and not cascade.is_autoregressive:
            drafter = ScheduledDrafter(runtime, cascade, priors)
        self.drafter = drafter
        self._prompt_cache = prompt_cache
        self._cache = runtime.new_cache() if prompt_cache is None else prompt_cache.keys
        self._alone_s = UNNOTICED_S  # of a token that the target decodes by itself
        self._repetition = Repetition(runtime, self._cache)

    @classmethod
    def from_profile(
        cls, loaded: LoadedModel, profile: DraftProfile, *, prompt_cache: PromptCache | None = None
    ) -> CascadeDecoder:
        """The decoder that a profile describes; `ProfileError` unless it was made for this very model."""
        spec = loaded.runtime.spec
        profile.check_target(loaded.fingerprint, spec.num_blocks, spec.num_kv_heads, loaded.widen)
        priors = None if profile.rejected else profile.priors
        return cls(loaded.runtime, profile.cascade, priors=priors, prompt_cache=prompt_cache)

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
        on_tokens: OnTokens | None = None,
        seed: int | None = None,
    ) -> Generation:
        """Continue a prompt.

        Args:
            prompt: token ids, at least one.
            max_new_tokens: new tokens at most.
            sampling: how tokens are chosen; greedy by default.
            eos: token ids that end the output (they are part of it).
            stop: a further condition, asked after each new token, for example `StopStrings`.
            on_tokens: called with tokens as they are committed, of several cycles at once where nobody would notice.
            seed: makes sampled output reproducible, whatever the cascade; None is random.
        """
        self._check(prompt, max_new_tokens)
        runtime, cache = self.runtime, self._cache
        stats = DecodingStats(drafts=[DraftCounts() for _ in range(self.drafter.num_drafts if self.drafter else 0)])
        choice = TargetChoice(sampling, seed, prompt, runtime.spec.vocab_size, runtime.device)
        context = DraftContext(list(prompt), cache, noise=choice.noise)
        output, captured_s = _Output(max_new_tokens, eos, stop), runtime.capture_s
        self._prefill(context, stats)

        # On a GPU a graph rounds the scores of a sampled chain otherwise than `choice` does.
        by_runtime = choice.is_plain or (choice.is_unfiltered and runtime.device.type == "cpu")
        ends = ChainStop(last_tokens=tuple(eos))
        started = runtime.clock()
        while output.finish_reason is None:
            idle = output.remaining if self.drafter is None else self.drafter.idle_tokens
            if by_runtime and idle:
                tokens = self._decode_alone(context, stats, choice, min(idle, output.remaining), ends)
                emitted = output.extend(tokens)
                stats.count_autoregressive(emitted)
            elif by_runtime and (standing := self._standing(context, output.remaining)):
                tokens, cycles = self._run_standing(context, standing, stats, choice, output.remaining, ends)
                emitted = output.extend(tokens)
                stats.count_cycles(cycles, standing.numbers, emitted)
            else:
                outcome = self._run_cycle(context, output.remaining, stats, choice, by_runtime)
                tokens = outcome.committed
                emitted = output.extend(tokens)
                stats.count_cycle(emitted)
                stats.count_tree(outcome.tree, outcome.path, emitted)
            if on_tokens is not None:
                on_tokens(tokens[:emitted])
        stats.decode_s = runtime.clock() - started
        stats.capture_s = runtime.capture_s - captured_s
        assert output.finish_reason is not None  # both go on until there is one
        return Generation(output.tokens, output.finish_reason, stats)

    def _run_cycle(
        self, context: DraftContext, remaining: int, stats: DecodingStats, choice: TargetChoice, by_runtime: bool
    ) -> Outcome:
        """Draft, verify and commit; whether the runtime chooses the target's tokens or `choice`, from its logits."""
        runtime, cache = self.runtime, self._cache
        window = runtime.spec.sliding_window or remaining  # a row sees all of its path
        context.max_depth = min(remaining, window) - 1
        context.max_nodes = cache.capacity - len(context.tokens)
        tree = self._propose(context, stats)

        verify_started = runtime.clock()
        rows = tree.rows(cache.length)
        if by_runtime:
            depths = tree.depths
            choices, logits = runtime.choose(cache, rows, choice.noise(0, max(depths) + 1), depths)
            path, bonus_token = verify_choices(tree, choices)
        else:
            logits = runtime.forward(runtime.target, cache, rows)
            path, bonus_token = choice.verify(tree, logits)
        cache.commit([cache.length + node for node in path])
        verify_s = runtime.clock() - verify_started
        stats.verify_s += verify_s

        outcome = Outcome(tree, path, bonus_token, logits, verify_s)
        tokens = outcome.committed
        context.tokens += tokens
        choice.commit(tokens)
        if self.drafter is not None:
            observe_started = runtime.clock()
            self.drafter.observe(outcome)
            stats.scheduling_s += runtime.clock() - observe_started
        return outcome

    def _standing(self, context: DraftContext, remaining: int) -> Standing | None:
        """What the drafter would propose in every cycle, where that is so and there is something left to draft."""
        return None if self.drafter is None or remaining < 2 else self.drafter.standing(context)

    def _run_standing(
        self,
        context: DraftContext,
        standing: Standing,
        stats: DecodingStats,
        choice: TargetChoice,
        remaining: int,
        ends: ChainStop,
    ) -> tuple[list[int], list[Cycle]]:
        """Some cycles with a standing proposal, at least one; what they committed, and what each of them did."""
        runtime, drafter = self.runtime, self.drafter
        assert drafter is not None
        started, model_s = runtime.clock(), drafter.model_s
        tokens, cycles = self._repetition.run(context.tokens, standing, choice, remaining, ends.last_tokens)
        context.tokens += tokens
        choice.commit(tokens)
        drafter.observe_cycles(tokens, cycles, runtime.clock() - started)
        draft_s, verify_s = drafter.model_s - model_s, sum(cycle.verify_s for cycle in cycles)
        stats.draft_s += draft_s
        stats.verify_s += verify_s
        stats.scheduling_s += runtime.clock() - started - draft_s - verify_s
        return tokens, cycles

    def _decode_alone(
        self, context: DraftContext, stats: DecodingStats, choice: TargetChoice, most: int, ends: ChainStop
    ) -> list[int]:
        """Decode some tokens without drafts, in a chain of the target's own; at least one and at most `most`.

        As fast as plain decoding gets, for the host looks up only every few tokens, and no more rarely than a reader
        would notice.
        """
        runtime, cache = self.runtime, self._cache
        count = min(max(int(UNNOTICED_S / self._alone_s), 1), MOST_TOKENS, most)
        started = runtime.clock()
        noise = choice.noise(0, count)
        found = runtime.draft_chain(runtime.target, cache, context.tokens[-1:], count, stop=ends, noise=noise)
        tokens = [candidates.tokens[0] for candidates in found]
        cache.commit(range(cache.length, cache.length + len(tokens)))
        seconds = runtime.clock() - started
        stats.verify_s += seconds
        self._alone_s = max(seconds / len(tokens), 1e-9)
        context.tokens += tokens
        choice.commit(tokens)
        if self.drafter is not None:
            self.drafter.observe_alone(tokens, seconds, noise)
            stats.scheduling_s += runtime.clock() - started - seconds
        return tokens

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
        """Put all tokens of the prompt but the last into the cache, unless they are there."""
        started = self.runtime.clock()
        if self._prompt_cache is None:
            context.cache.truncate(0)
        else:
            self._prompt_cache.begin(context.tokens)
        self._repetition.start()
        # The drafter first: between a forward pass and the next one nothing should push weights out of caches.
        if self.drafter is not None:
            self.drafter.start(context.tokens)
        self.runtime.prefill(context.cache, context.tokens[context.cache.length : -1])
        if self.runtime.device.type == "cuda":
            torch.cuda.synchronize(self.runtime.device)
        stats.prefill_s = self.runtime.clock() - started

    def _propose(self, context: DraftContext, stats: DecodingStats) -> TokenTree:
        """What the drafter proposes; the root alone where it has nothing, or where one token is left to emit."""
        tree = None
        if self.drafter is not None and context.max_depth > 0:
            started, model_s = self.runtime.clock(), self.drafter.model_s
            tree = self.drafter.propose(context)
            draft_s = self.drafter.model_s - model_s
            stats.draft_s += draft_s
            stats.scheduling_s += self.runtime.clock() - started - draft_s
        return tree or TokenTree.root_only(context.tokens[-1])
