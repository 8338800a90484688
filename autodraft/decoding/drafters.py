"""The `Drafter` protocol: what proposes a token tree at the start of a cycle.

Knows nothing of verification or of how tokens are chosen. `ScheduledDrafter` runs the drafts and the scheduler of a
cascade; anything that keeps the contract below can be given to `CascadeDecoder`, and no drafter, however bad, can
change its output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from autodraft.decoding.tree import TokenTree
from autodraft.runtime import ChoiceNoise, Cycle, KVCache, StandingDraft


def _no_noise(depth: int, count: int) -> ChoiceNoise | None:
    return None


@dataclass(slots=True)
class DraftContext:
    """What a drafter may look at. The decoder owns it and updates it in place; drafters only read it.

    Attributes:
        tokens: prompt and committed output; the last one is the root of the tree to propose.
        cache: keys and values of all tokens but the last: `cache.length == len(tokens) - 1`.
        max_depth: deepest drafted node that could still be emitted and sees the root; at least 1 for `propose`.
        max_nodes: drafted nodes (root not counted) for which the cache has room; at least `max_depth`.
        noise: (depth, count) -> the noise by which the target will choose the tokens at depths `depth + 1` ..
            `depth + count`, for drafts that sample with it; None where decoding is greedy.
    """

    tokens: list[int]
    cache: KVCache
    max_depth: int = 0
    max_nodes: int = 0
    noise: Callable[[int, int], ChoiceNoise | None] = _no_noise


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the target made of a proposal.

    Attributes:
        tree: what was verified; a root alone where nothing was proposed.
        path: accepted nodes, the root included.
        bonus_token: the target's own token after the path.
        logits: the target's logits at each node, before any sampling settings; they hold until the runtime's next pass.
            float32 [n, vocab]
        verify_s: seconds that the verification took.
    """

    tree: TokenTree
    path: Sequence[int]
    bonus_token: int
    logits: Tensor
    verify_s: float

    @property
    def committed(self) -> list[int]:
        """The tokens that were appended to the output."""
        return [*(self.tree.tokens[node] for node in self.path[1:]), self.bonus_token]


@dataclass(frozen=True, slots=True)
class Standing:
    """A proposal that does not depend on what is accepted.

    Attributes:
        draft: what is drafted.
        numbers: of the drafts that what is looked up, and what `draft.plan` drafts, count for.
        token_s: what a token of plain decoding takes, in seconds.
        lost_s: how much longer than plain decoding the coming cycles may take together before the drafter would propose
            nothing.
    """

    draft: StandingDraft
    numbers: tuple[int, int]
    token_s: float
    lost_s: float


@runtime_checkable
class Drafter(Protocol):
    """Proposes tokens for the target to verify.

    The decoder calls `start` once per generated sequence, then in each cycle `propose` (unless only one token is left
    to emit) and, once the target has verified, `observe`. While a drafter is idle the target may decode by itself
    instead, which is faster than cycles without a draft, and `observe_alone` says so; one that is never idle inherits
    that. A drafter belongs to one decoder at a time.

    Attributes:
        idle_tokens: tokens for which it will propose nothing, whatever they are; 0: it wants to be asked.
        num_drafts: how many drafts its proposals come from (`TokenTree.drafts`), for the decoder's counts.
        model_s: seconds that it has spent in forward passes of drafts so far.
    """

    num_drafts: int

    @property
    def model_s(self) -> float: ...

    @property
    def idle_tokens(self) -> int:
        return 0

    def start(self, tokens: Sequence[int]) -> None:
        """Forget the previous sequence; `tokens` is the prompt of the next one (not to be kept or changed).

        The prompt is not in the cache yet.
        """
        ...

    def propose(self, context: DraftContext) -> TokenTree | None:
        """A tree rooted at `context.tokens[-1]`, or None: nothing to propose, the target decodes one token.

        The tree has at least one drafted node, at most `context.max_nodes`, none deeper than `context.max_depth`.
        Keys and values may be written to cache slots `>= context.cache.length` and nowhere else, and neither
        `cache.length` nor anything else of the context may be changed.
        """
        ...

    def observe(self, outcome: Outcome) -> None:
        """The target has verified what was proposed last, or a root alone."""
        ...

    def observe_alone(self, tokens: Sequence[int], seconds: float, noise: ChoiceNoise | None) -> None:
        """The target has decoded `tokens` by itself, `idle_tokens` of them at most, in so many seconds.

        `noise` is what they were chosen by, a row for each and maybe more; None if greedily.
        """
        return None

    def standing(self, context: DraftContext) -> Standing | None:
        """What it will propose in each of the coming cycles, whatever they bring; None: it wants to be asked.

        Then the runtime may go through some of them by itself, and `observe_cycles` says so.
        """
        return None

    def observe_cycles(self, tokens: Sequence[int], cycles: Sequence[Cycle], seconds: float) -> None:
        """Cycles with the standing proposal took place: they committed `tokens`, in so many seconds, all together."""
        return None
