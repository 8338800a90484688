"""The `Drafter` protocol: what proposes a token tree at the start of a cycle.

Knows nothing of verification or of how tokens are chosen. Implementations: `PromptLookupDrafter`, `SelfDrafter`;
anything that keeps the contract below can be given to `CascadeDecoder`, and no drafter, however bad, can change its
output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from autodraft.decoding.tree import TokenTree
from autodraft.runtime import KVCache


@dataclass(slots=True)
class DraftContext:
    """What a drafter may look at. The decoder owns it and updates it in place; drafters only read it.

    Attributes:
        tokens: prompt and committed output; the last one is the root of the tree to propose.
        cache: keys and values of all tokens but the last: `cache.length == len(tokens) - 1`.
        max_depth: deepest drafted node that could still be emitted; at least 1 when `propose` is called.
        max_nodes: drafted nodes (root not counted) for which the cache has room; at least `max_depth`.
    """

    tokens: list[int]
    cache: KVCache
    max_depth: int = 0
    max_nodes: int = 0


@runtime_checkable
class Drafter(Protocol):
    """Proposes tokens for the target to verify.

    The decoder calls `start` once per generated sequence, then in each cycle `propose` on its drafters in order until
    one has a proposal, and `observe` on that one once the target has verified it. A drafter belongs to one decoder at a
    time.
    """

    def start(self, tokens: Sequence[int]) -> None:
        """Forget the previous sequence; `tokens` is the prompt of the next one (not to be kept or changed)."""
        ...

    def propose(self, context: DraftContext) -> TokenTree | None:
        """A tree rooted at `context.tokens[-1]`, or None (nothing to propose: the next drafter is asked).

        The tree has at least one drafted node, at most `context.max_nodes`, none deeper than `context.max_depth`.
        Keys and values may be written to cache slots `>= context.cache.length` and nowhere else, and neither
        `cache.length` nor anything else of the context may be changed.
        """
        ...

    def observe(self, tree: TokenTree, path: Sequence[int]) -> None:
        """The target accepted the nodes `path` (root included) of the `tree` that this drafter proposed last."""
        ...
