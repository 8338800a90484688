"""What one call of the decoder returns: the tokens, why they end, and what was counted and timed.

Knows nothing of how they came about. Times are wall-clock seconds; derived counts are properties, never stored twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from autodraft.decoding.tree import TokenTree
from autodraft.runtime import Cycle

FinishReason = Literal["length", "eos", "stop"]

StopCondition = Callable[[list[int]], bool]
"""Called after each new token with all new tokens so far (not to be changed); True ends the generation there."""


@dataclass
class DraftCounts:
    """What one draft of the cascade contributed.

    Attributes:
        cycles: cycles in which tokens of it were verified.
        drafted_tokens: tokens that it proposed, all nodes of trees counted.
        accepted_tokens: proposed tokens that were committed.
        reached_tokens: proposed tokens before which all others were accepted.
    """

    cycles: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    reached_tokens: int = 0


@dataclass
class DecodingStats:
    """Counts and times of one generation.

    Attributes:
        prefill_s: the prompt without its last token, drafters' preparation included.
        decode_s: everything after it, until the last token, without `capture_s`.
        capture_s: time on what is made once and then only run (graphs on a GPU), apart from all other times.
        draft_s: the part of `decode_s` in which drafts ran forward passes.
        scheduling_s: the part of `decode_s` in which drafts were scheduled, looked up and learnt from.
        verify_s: the part of `decode_s` in which the target ran and its tokens were chosen.
        autoregressive_cycles: cycles in which nothing was drafted.
        tokens_per_cycle_histogram: number of cycles by the tokens that they committed, bonus token included.
        drafts: by draft, in the order of the cascade.
    """

    prefill_s: float = 0.0
    decode_s: float = 0.0
    capture_s: float = 0.0
    draft_s: float = 0.0
    scheduling_s: float = 0.0
    verify_s: float = 0.0
    autoregressive_cycles: int = 0
    tokens_per_cycle_histogram: dict[int, int] = field(default_factory=dict)
    drafts: list[DraftCounts] = field(default_factory=list)

    @property
    def cycles(self) -> int:
        """Target forwards after the prefill."""
        return sum(self.tokens_per_cycle_histogram.values())

    @property
    def new_tokens(self) -> int:
        return sum(tokens * cycles for tokens, cycles in self.tokens_per_cycle_histogram.items())

    @property
    def drafted_tokens(self) -> int:
        return sum(draft.drafted_tokens for draft in self.drafts)

    @property
    def accepted_tokens(self) -> int:
        return sum(draft.accepted_tokens for draft in self.drafts)

    @property
    def draft_cycles(self) -> list[int]:
        """Cycles in which tokens of each draft were verified, in the order of the cascade."""
        return [draft.cycles for draft in self.drafts]

    @property
    def tokens_per_cycle(self) -> float:
        """tau: committed tokens per target forward."""
        return self.new_tokens / self.cycles if self.cycles else 0.0

    @property
    def tokens_per_s(self) -> float:
        """New tokens per second of decoding, prefill not counted."""
        return self.new_tokens / self.decode_s if self.decode_s else 0.0

    def count_cycle(self, emitted_tokens: int) -> None:
        """Count one verification that committed `emitted_tokens`."""
        histogram = self.tokens_per_cycle_histogram
        histogram[emitted_tokens] = histogram.get(emitted_tokens, 0) + 1

    def count_autoregressive(self, emitted_tokens: int) -> None:
        """Count tokens that the target made one after the other, a cycle each."""
        if emitted_tokens:
            histogram = self.tokens_per_cycle_histogram
            histogram[1] = histogram.get(1, 0) + emitted_tokens
            self.autoregressive_cycles += emitted_tokens

    def count_tree(self, tree: TokenTree, path: Sequence[int], emitted_tokens: int) -> None:
        """Count the nodes of a verified tree for the drafts that they came from."""
        sources = tree.drafts or (0,) * len(tree)
        if not tree.num_drafted:
            self.autoregressive_cycles += 1
            return
        drafted, parents = sources[1:], tree.parents[1:]
        accepted = [sources[node] for node in path[1 : emitted_tokens + 1]]
        passed = path[:emitted_tokens]  # what comes after the end of the output was not reached
        reached = [source for source, parent in zip(drafted, parents, strict=True) if parent in passed]
        for source in set(drafted):
            counts = self.drafts[source]
            counts.cycles += 1
            counts.drafted_tokens += drafted.count(source)
            counts.accepted_tokens += accepted.count(source)
            counts.reached_tokens += reached.count(source)

    def count_cycles(self, cycles: Sequence[Cycle], drafts: tuple[int, int], emitted_tokens: int) -> None:
        """Count cycles that the runtime ran by itself, as far as their tokens were emitted.

        `drafts` are the numbers of the draft that looks up and of the one that runs.
        """
        for cycle in cycles:
            emitted = min(cycle.committed, emitted_tokens)
            emitted_tokens -= emitted
            if not emitted:
                return
            self.count_cycle(emitted)
            if not cycle.drafted:
                self.autoregressive_cycles += 1
                continue
            counts = self.drafts[drafts[not cycle.looked_up]]
            counts.cycles += 1
            counts.drafted_tokens += cycle.drafted
            counts.accepted_tokens += min(cycle.committed - 1, emitted)
            counts.reached_tokens += min(cycle.drafted, cycle.committed, emitted)


@dataclass
class Generation:
    """What `CascadeDecoder.generate` returns.

    Attributes:
        tokens: the new tokens only; the EOS token or the token that completed a stop string is the last one.
        finish_reason: "eos", "stop", or "length" (max_new_tokens reached without either).
        stats: counts and times.
    """

    tokens: list[int]
    finish_reason: FinishReason
    stats: DecodingStats
