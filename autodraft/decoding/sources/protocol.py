"""The `TokenSource` protocol: what a draft that costs no forward pass offers to a scheduler.

Knows nothing of trees, budgets or models: a source is asked for the next tokens after a state and says how strong its
evidence for each is; how far and how broadly to draft is the scheduler's business. No source, however bad, can change
the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

State: TypeAlias = tuple[int, int]
"""Where a source stands after some tokens: two numbers that only the source can read. Kept per tree node."""


class TokenSource(Protocol):
    """Proposes tokens from what was seen before.

    The scheduler calls `start` once per sequence. In each cycle it takes `root()`, walks from there with `step` along
    the tree that it grows, whoever proposed the tokens, and asks for `candidates` where it wants them. After
    verification it calls `learn` (if `top_successors` is not 0) and then `commit`. States are valid until the next
    `start` or `commit`, `candidates` until the next `learn` too. Each call takes about a microsecond, `start` and
    `commit` about as much per token, however long the text is.

    Attributes:
        num_classes: evidence classes are 0..num_classes-1. A class says nothing but which candidates are alike; how
            often those of a class are accepted is learned by the scheduler.
        top_successors: how many of the target's most probable tokens `learn` wants per verified row; 0: none.
    """

    num_classes: int
    top_successors: int

    def start(self, tokens: Sequence[int]) -> None:
        """Begin a new sequence; `tokens` is its prompt, at least one token (not to be kept or changed)."""
        ...

    def commit(self, tokens: Sequence[int]) -> None:
        """`tokens` were appended to the text: the accepted path and the bonus token."""
        ...

    def root(self) -> State:
        """The state after the last committed token."""
        ...

    def step(self, state: State, token: int) -> State:
        """The state after a further, unverified token. Changes nothing."""
        ...

    def candidates(self, state: State, most: int) -> Sequence[tuple[int, int]]:
        """At most `most` different next tokens with their evidence classes, best first; empty: nothing to propose.

        Asking for fewer gives the first of those that asking for more would give.
        """
        ...

    def learn(self, tokens: Sequence[int], successors: Sequence[Sequence[int]]) -> None:
        """The target verified rows.

        Args:
            tokens: the token of each row. [n]
            successors: the target's most probable tokens after each row, best first. [n][top_successors]
        """
        ...
