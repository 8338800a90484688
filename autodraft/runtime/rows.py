"""`Rows`: the query rows of one forward pass and the cached keys that each of them sees.

Knows nothing of policies or weights. One description serves prefill, single steps, tree verification
and teacher-forced drafting: a row sees a contiguous range of cache slots (its prefix) and then an
explicit list of further slots (its path, its own slot last), in order of position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rows:
    """One forward pass over `n` rows.

    Attributes:
        tokens: token ids. [n]
        positions: position of each token in its sequence (rotary or learned). [n]
        slots: cache slot that each row's key and value are written to; all different. [n]
        prefix_starts: first cache slot of the prefix that the row sees. [n]
        prefix_lengths: number of prefix slots. [n]
        paths: further slots in order of position, ending with the row's own slot. [n][<= depth + 1]
    """

    tokens: Sequence[int]
    positions: Sequence[int]
    slots: Sequence[int]
    prefix_starts: Sequence[int]
    prefix_lengths: Sequence[int]
    paths: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_chain(self) -> bool:
        """Whether `chain` made them: every row sees all slots up to its own, which is also its position."""
        return self.prefix_lengths is self.slots

    @classmethod
    def chain(cls, tokens: Sequence[int], length: int) -> Rows:
        """Successive tokens after `length` committed ones, written to the slots that follow them."""
        n = len(tokens)
        slots = range(length, length + n)
        # A chain needs no path but its own slot: everything before it is contiguous.
        return cls(tokens, slots, slots, [0] * n, slots, [[slot] for slot in slots])

    @classmethod
    def tree(cls, tokens: Sequence[int], parents: Sequence[int], length: int, first: int = 0) -> Rows:
        """Nodes `first..` of a token tree rooted after `length` committed tokens; node i is written to slot length + i.

        `parents[i] < i` is the parent's node number; the root is node 0 with parent -1.
        """
        paths: list[list[int]] = []
        for node, parent in enumerate(parents):
            paths.append([*paths[parent], length + node] if parent >= 0 else [length + node])
        paths = paths[first:]
        n = len(paths)
        return cls(
            tokens[first:],
            [length + len(path) - 1 for path in paths],
            range(length + first, length + first + n),
            [0] * n,
            [length] * n,
            paths,
        )
