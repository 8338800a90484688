"""Self-drafting: propose tokens with a compressed copy of the target over the shared KV cache.

Knows nothing of the compression itself (a `DraftPlan` is opaque here) or of verification. Drafts are greedy: the most
probable tokens of the draft, whatever the sampling settings of the target are. Chains are drafted by the runtime, in
one call where the backend can; trees are grown here, one forward pass per level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autodraft.cascade import SelfDraft
from autodraft.decoding.drafters import DraftContext
from autodraft.decoding.tree import TokenTree
from autodraft.runtime import DraftPlan, KVCache, Rows, TransformerRuntime


@dataclass
class _Growth:
    """A tree that is being drafted, level by level; node 0 is the root, `probs` are cumulative draft probabilities."""

    tokens: list[int]
    parents: list[int] = field(default_factory=lambda: [-1])
    probs: list[float] = field(default_factory=lambda: [1.0])
    # Only expanded nodes are run by the draft and need a slot of the cache: their number among the expanded ones.
    row_of: dict[int, int] = field(default_factory=dict)
    row_tokens: list[int] = field(default_factory=list)
    row_parents: list[int] = field(default_factory=list)

    def place(self, nodes: Sequence[int]) -> int:
        """Give rows to `nodes`, whose parents have theirs; returns the number of the first."""
        first = len(self.row_tokens)
        for node in nodes:
            self.row_of[node] = len(self.row_tokens)
            self.row_tokens.append(self.tokens[node])
            self.row_parents.append(self.row_of.get(self.parents[node], -1))
        return first

    def add_children(self, node: int, tokens: Sequence[int], probs: Sequence[float]) -> range:
        """Append children with their probabilities given the path to `node`; returns their node numbers."""
        first = len(self.tokens)
        self.tokens += tokens
        self.parents += [node] * len(tokens)
        self.probs += [self.probs[node] * prob for prob in probs]
        return range(first, first + len(tokens))

    def best(self, num_nodes: int) -> list[int]:
        """The `num_nodes` drafted nodes of highest probability, parents always included before their children."""
        return sorted(range(1, len(self.tokens)), key=lambda node: -self.probs[node])[:num_nodes]


def draft_tree(
    runtime: TransformerRuntime,
    plan: DraftPlan,
    cache: KVCache,
    token: int,
    num_tokens: int,
    stop_threshold: float,
    branching: int,
    max_nodes: int,
) -> TokenTree:
    """Draft a tree after `token` of depth up to `num_tokens`: the `max_nodes` nodes of highest cumulative probability.

    Level by level, one draft forward each: the `branching` most probable nodes of a level are expanded, each to its
    `branching` most probable next tokens. A node whose own draft probability is below `stop_threshold` is kept but not
    expanded, nor is one that could only lead to nodes beyond the best `max_nodes`.
    """
    growth = _Growth([token])
    level = [0]
    for _ in range(num_tokens):
        room = cache.capacity - cache.length - len(growth.row_tokens)
        level = level[: min(branching, room)]
        if not level:
            break
        first = growth.place(level)
        rows = Rows.tree(growth.row_tokens, growth.row_parents, cache.length, first)
        tokens, probs = _most_probable(runtime.forward(plan, cache, rows), branching)
        confident: list[int] = []
        for node, child_tokens, child_probs in zip(level, tokens, probs, strict=True):
            children = growth.add_children(node, child_tokens, child_probs)
            confident += [child for child, prob in zip(children, child_probs, strict=True) if prob >= stop_threshold]
        useful = set(growth.best(max_nodes))
        level = sorted((node for node in confident if node in useful), key=lambda node: -growth.probs[node])
    return depth_first(growth.tokens, growth.parents, growth.best(max_nodes))


def _most_probable(logits: Tensor, count: int) -> tuple[list[list[int]], list[list[float]]]:
    """Tokens and draft probabilities of the `count` most probable tokens of each row, best first."""
    top = torch.topk(torch.softmax(logits, -1), min(count, logits.shape[-1]))
    return top.indices.tolist(), top.values.tolist()


def depth_first(tokens: Sequence[int], parents: Sequence[int], kept: Sequence[int]) -> TokenTree:
    """The tree of the root and the nodes `kept` (best first, parents before children), depth first, best child first.

    So the most probable path is a run of successive nodes, and committing it moves nothing in the cache.
    """
    children: dict[int, list[int]] = {}
    for node in kept:
        children.setdefault(parents[node], []).append(node)
    new_tokens: list[int] = []
    new_parents: list[int] = []
    stack = [(0, -1)]
    while stack:
        node, parent = stack.pop()
        number = len(new_tokens)
        new_tokens.append(tokens[node])
        new_parents.append(parent)
        stack += [(child, number) for child in reversed(children.get(node, []))]
    return TokenTree(tuple(new_tokens), tuple(new_parents))


class SelfDrafter:
    """Drafts a chain (`branching` 1) or a tree with one compression policy of the target."""

    def __init__(self, runtime: TransformerRuntime, settings: SelfDraft) -> None:
        self.settings = settings
        self.plan = runtime.plan(settings.policy)
        self._runtime = runtime

    def start(self, tokens: Sequence[int]) -> None:
        """Nothing to forget: all state is in the shared cache."""

    def propose(self, context: DraftContext) -> TokenTree:
        settings = self.settings
        token, cache = context.tokens[-1], context.cache
        num_tokens = min(settings.num_draft_tokens, context.max_depth)
        if settings.branching == 1:
            tokens, _ = self._runtime.draft_chain(self.plan, cache, token, num_tokens, settings.stop_threshold)
            return TokenTree.chain(token, tokens)
        max_nodes = min(settings.max_nodes, context.max_nodes)
        return draft_tree(
            self._runtime, self.plan, cache, token, num_tokens, settings.stop_threshold, settings.branching, max_nodes
        )

    def observe(self, tree: TokenTree, path: Sequence[int]) -> None:
        """Nothing to learn: policy and settings are fixed."""
