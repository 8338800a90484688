"""Which part of a drafted tree the target accepts, and the bonus token after it.

Knows nothing of logits, filters or where a tree came from: it sees the token that the target chooses at each node.

Why this is exact. Let g_0, g_1, ... be independent noise vectors over the vocabulary, one per output position, and let
F(g | x) be the token that maximises log target_probs(. | x) + g. With Gumbel noise F(g | x) has the distribution
target_probs(. | x) (the Gumbel-max trick). Autoregressive sampling emits x_t = F(g_t | x_0 .. x_{t-1}). Verification
chooses F(g_{t+d} | path of the node) at a node of depth d, and descends while the choice is one of the node's children;
what it emits, the choice at the last accepted node (the bonus token) included, is therefore x_t, x_{t+1}, ... itself.
The vectors of positions not emitted are used again for the same positions in the next cycle. So the speculative output
is the same function of g_0, g_1, ... as the autoregressive one: equal token by token for the same seed, hence equal in
distribution, for every tree of every scheduler, even one that was drafted with a look at g. Greedy decoding is g = 0.

Why the noise is shared. A draft that looks at g proposes the token that maximises log draft_probs + g: a sample of its
own distribution, coupled to the target's choice (Daliri et al., arXiv 2408.07978). Its next best tokens by the same
scores are the siblings, a sample without replacement (Gumbel-top-k; Kool et al., arXiv 1903.06059). With TV the total
variation distance of the two distributions, a candidate is accepted with a probability of at least (1 - TV) / (1 + TV).

Why no rejection sampling. Accepting with min(1, target/draft) and drawing from the residual distribution (Leviathan et
al., arXiv 2211.17192; over several candidates: SpecInfer, arXiv 2305.09781; without replacement: RRS, arXiv 2402.14160)
accepts a single candidate with probability 1 - TV, which nothing exceeds. But it must know the distribution that every
candidate was drawn from, which deterministic drafts, pruned trees and cascades of several drafts do not have or no
longer have, each scheduler needs its own proof, and the output depends on what was drafted. What the choice costs in
acceptance is measured in autodraft/benchmarks/sampling.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from autodraft.decoding.tree import TokenTree


class Verified(NamedTuple):
    """The outcome of one verification.

    Attributes:
        path: accepted nodes from the root on, the root included.
        bonus_token: the target's own token after the path.
    """

    path: list[int]
    bonus_token: int


def verify_choices(tree: TokenTree, choices: Sequence[int]) -> Verified:
    """Accept the path along which each node's token is what the target chose at its parent. `choices`: [n]."""
    path = tree.descend(choices)
    return Verified(path, choices[path[-1]])


def verify_sampled(tree: TokenTree, choose: Callable[[int, int], int]) -> Verified:
    """The same where a choice costs more than a look: `choose(node, depth)` is called for nodes of the path only."""
    child_with = {edge: node for node, edge in enumerate(zip(tree.parents, tree.tokens, strict=True))}
    path = [0]
    choice = choose(0, 0)
    while (child := child_with.get((path[-1], choice))) is not None:
        path.append(child)
        choice = choose(child, len(path) - 1)
    return Verified(path, choice)
