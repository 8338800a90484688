"""Which part of a drafted tree the target accepts, and the bonus token after it.

Knows nothing of logits, filters or where a tree came from: it sees the token that the target chooses at each node,
or the distributions (from `sampling.probabilities`) and the uniform numbers by which it chooses.

Why this is exact. Let u_0, u_1, ... be independent uniform numbers, one per output position, and let F(. | x) be the
inverse of the target's distribution function after the context x. Autoregressive sampling emits
x_t = F(u_t | x_0 .. x_{t-1}). Verification chooses F(u_{t+d} | path of the node) at each node of depth d, and descends
while the choice is one of the node's children; what it emits, the choice at the last accepted node (the bonus token)
included, is therefore x_t, x_{t+1}, ... itself. The choices at nodes off the path are thrown away and their numbers are
used again for the same position in the next cycle. So the speculative output is the same function of u_0, u_1, ... as
the autoregressive one: equal token by token for the same seed, hence equal in distribution, for any tree, whether it is
a deterministic function of the context or not. Greedy decoding is the case where F does not depend on u.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from autodraft.decoding.sampling import argmax_tokens, choose
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


def verify_greedy(tree: TokenTree, target_logits: Tensor) -> Verified:
    """The longest path whose tokens equal the target's argmax. `target_logits`: [n, vocab]."""
    return verify_choices(tree, argmax_tokens(target_logits))


def verify_sampled(tree: TokenTree, target_probs: Tensor, uniforms: Sequence[float]) -> Verified:
    """Sample from the target's distribution at each node and descend while the sample is a child.

    Args:
        tree: what was drafted.
        target_probs: the target's distribution at each node. float64 [n, vocab]
        uniforms: number in [0, 1) for the output token after the root, for the one after depth 1, ... [depth + 1]
    """
    return verify_choices(tree, choose(target_probs, [uniforms[depth] for depth in tree.depths]))
