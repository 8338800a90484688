"""`Growth`: a token tree in the making, with what its maker expects of each node.

Knows nothing of models, caches or time. Node 0 is the root, the last committed token. Nodes are never removed: one that
is not `kept` (a lower draft's token that an upper draft has replaced) is simply not verified.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autodraft.decoding.tree import TokenTree

ROOT = 0
NO_DRAFT = -1


class Growth:
    """Parallel lists over nodes, parents before their children.

    Attributes:
        tokens: token ids.
        parents: node numbers; -1 for the root.
        depths: distance from the root.
        drafts: number of the draft that proposed each node; `NO_DRAFT` for the root.
        evidence: class of evidence under which the node's acceptance is estimated, in its draft's own numbering.
        probs: estimated probability that the node is accepted if its parent is.
        reach: estimated probability that the node is accepted: product of `probs` from the root on.
        kept: whether the node is to be verified.
    """

    __slots__ = (
        "_child_with",
        "_children_of",
        "depths",
        "drafts",
        "evidence",
        "kept",
        "parents",
        "probs",
        "reach",
        "tokens",
    )

    def __init__(self, root_token: int) -> None:
        self.tokens = [root_token]
        self.parents = [-1]
        self.depths = [0]
        self.drafts = [NO_DRAFT]
        self.evidence = [0]
        self.probs = [1.0]
        self.reach = [1.0]
        self.kept = [True]
        self._child_with: dict[tuple[int, int], int] = {}
        self._children_of: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def child(self, parent: int, token: int) -> int | None:
        """The child of `parent` with this token, if there is one."""
        return self._child_with.get((parent, token))

    def add(
        self, parent: int, token: int, draft: int, prob: float = 1.0, evidence: int = 0, *, kept: bool = True
    ) -> int:
        """Add a node, or find it: of two proposals of the same token the more confident one counts."""
        node = self._child_with.get((parent, token))
        if node is not None:
            if kept:
                self.kept[node] = True
            if prob > self.probs[node]:
                self.estimate(node, draft, prob, evidence)
            return node
        node = len(self.tokens)
        self._child_with[parent, token] = node
        self._children_of.setdefault(parent, []).append(node)
        self.tokens.append(token)
        self.parents.append(parent)
        self.depths.append(self.depths[parent] + 1)
        self.drafts.append(draft)
        self.evidence.append(evidence)
        self.probs.append(prob)
        self.reach.append(self.reach[parent] * prob)
        self.kept.append(kept)
        return node

    def estimate(self, node: int, draft: int, prob: float, evidence: int) -> None:
        """Replace what is expected of a node; `refresh` brings that to nodes below it."""
        self.drafts[node], self.evidence[node], self.probs[node] = draft, evidence, prob
        self.reach[node] = self.reach[self.parents[node]] * prob

    def path(self, node: int) -> list[int]:
        """Nodes from the root to `node`, both included."""
        path = [node]
        while node:
            node = self.parents[node]
            path.append(node)
        path.reverse()
        return path

    def children(self, node: int) -> list[int]:
        """Nodes whose parent is `node`, in the order in which they were added."""
        return self._children_of.get(node, [])

    def refresh(self) -> None:
        """Recompute `reach` of all nodes, after estimates of nodes that had children already."""
        for node in range(1, len(self.tokens)):
            self.reach[node] = self.reach[self.parents[node]] * self.probs[node]

    def keep_only(self, nodes: Iterable[int]) -> None:
        """Verify the root and `nodes` (with every node its parent), and nothing else."""
        self.kept = [False] * len(self.tokens)
        self.kept[ROOT] = True
        for node in nodes:
            self.kept[node] = True

    def kept_nodes(self) -> list[int]:
        """Drafted nodes that are to be verified, in the order in which they were added."""
        return [node for node in range(1, len(self.tokens)) if self.kept[node]]

    def tree(self, nodes: Sequence[int]) -> tuple[TokenTree, list[int]]:
        """The tree of the root and `nodes` (parents before children), and the growth node of each of its nodes.

        Depth first and the likeliest child first, so that the likeliest path is a run of successive nodes and
        committing it moves nothing in the cache.
        """
        parents = self.parents
        if all(parents[node] == before for node, before in zip(nodes, (ROOT, *nodes), strict=False)):
            order = [ROOT, *nodes]
            drafts = [self.drafts[node] for node in order]
            return TokenTree.chain(self.tokens[0], [self.tokens[node] for node in nodes], drafts), order
        children: dict[int, list[int]] = {}
        for node in sorted(nodes, key=lambda node: -self.reach[node]):
            children.setdefault(parents[node], []).append(node)
        order = []
        new_parents: list[int] = []
        stack = [(ROOT, -1)]
        while stack:
            node, parent = stack.pop()
            number = len(order)
            order.append(node)
            new_parents.append(parent)
            stack += [(child, number) for child in reversed(children.get(node, ()))]
        tokens, drafts = ([part[node] for node in order] for part in (self.tokens, self.drafts))
        return TokenTree(tuple(tokens), tuple(new_parents), tuple(drafts)), order

    def outcomes(self, accepted: Iterable[int]) -> list[tuple[int, bool]]:
        """(node, whether it was accepted) for every verified node whose parent was accepted."""
        on_path = set(accepted)
        return [
            (node, node in on_path)
            for node in range(1, len(self.tokens))
            if self.kept[node] and self.parents[node] in on_path
        ]
