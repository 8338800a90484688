"""`TokenTree`: the tokens that a draft proposes, with parent links; a chain is a tree of width 1.

Knows nothing of models, probabilities or caches. Node 0 is the root: the last committed token, which the
target has not seen yet. A tree with only the root is an autoregressive step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from autodraft.runtime.rows import Rows

_CHAIN_PARENTS = [tuple(range(-1, nodes - 1)) for nodes in range(130)]


def _chain_parents(num_nodes: int) -> tuple[int, ...]:
    return _CHAIN_PARENTS[num_nodes] if num_nodes < len(_CHAIN_PARENTS) else tuple(range(-1, num_nodes - 1))


@dataclass(frozen=True)
class TokenTree:
    """Proposed tokens in an order in which parents come before their children.

    Attributes:
        tokens: token ids, the root's first. [n]
        parents: node number of each parent: -1 for the root, else `0 <= parents[i] < i`. [n]
        drafts: number of the draft that each node came from (the root's counts for nothing); empty: draft 0. [n]
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    drafts: tuple[int, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        tokens, parents = self.tokens, self.parents
        if not tokens or len(tokens) != len(parents):
            raise ValueError(f"a tree needs a root and as many parents as tokens, not {len(parents)} and {len(tokens)}")
        if parents == _chain_parents(len(tokens)):
            return
        if parents[0] != -1 or any(not 0 <= parent < node for node, parent in enumerate(parents[1:], start=1)):
            raise ValueError(f"parents {parents} are no tree: -1 for the root, then 0 <= parents[i] < i")
        if len(set(zip(parents, tokens, strict=True))) != len(tokens):
            raise ValueError("two children of one node have the same token")

    @classmethod
    def root_only(cls, token: int) -> TokenTree:
        """Nothing proposed: verifying it is one autoregressive step."""
        return cls((token,), (-1,))

    @classmethod
    def chain(cls, root: int, tokens: Sequence[int], drafts: Sequence[int] = ()) -> TokenTree:
        """Successive `tokens` after the root."""
        return cls((root, *tokens), _chain_parents(len(tokens) + 1), tuple(drafts))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_drafted(self) -> int:
        """Nodes without the root."""
        return len(self.tokens) - 1

    @property
    def is_chain(self) -> bool:
        return self.parents == _chain_parents(len(self.parents))

    @property
    def depths(self) -> list[int]:
        """Distance of each node from the root. [n]"""
        if self.is_chain:
            return list(range(len(self.tokens)))
        depths = [0]
        for parent in self.parents[1:]:
            depths.append(depths[parent] + 1)
        return depths

    @property
    def depth(self) -> int:
        """Distance of the deepest node from the root; 0 for a root alone."""
        return max(self.depths)

    def children(self, node: int) -> list[int]:
        """Nodes whose parent is `node`, in order."""
        return [child for child, parent in enumerate(self.parents) if parent == node and child > 0]

    def path(self, node: int) -> list[int]:
        """Nodes from the root to `node`, both included."""
        return [*self._upwards(node)][::-1]

    def _upwards(self, node: int) -> Iterator[int]:
        while node >= 0:
            yield node
            node = self.parents[node]

    def descend(self, choices: Sequence[int]) -> list[int]:
        """The path from the root that goes on as long as `choices[node]` is the token of one of the node's children."""
        path = [0]
        if self.is_chain:
            for node in range(1, len(self.tokens)):
                if choices[node - 1] != self.tokens[node]:
                    break
                path.append(node)
            return path
        child_with = {edge: node for node, edge in enumerate(zip(self.parents, self.tokens, strict=True))}
        while (child := child_with.get((path[-1], choices[path[-1]]))) is not None:
            path.append(child)
        return path

    def rows(self, cache_length: int) -> Rows:
        """The forward pass that verifies this tree after `cache_length` committed tokens; node i uses slot length + i.

        A chain is described exactly as its tokens would be in successive single steps, so that a row-invariant
        backend gives bitwise the same logits.
        """
        if self.is_chain:
            return Rows.chain(self.tokens, cache_length)
        return Rows.tree(self.tokens, self.parents, cache_length)
