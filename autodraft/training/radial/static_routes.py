"""The best single route for all tokens at a given cost: what a router starts from, and what it has to beat.

Greedy elimination of what is missed least per share of the blocks, then random swaps that keep the cost, as in EvoPress
(arXiv 2410.14649). Knows nothing of routers: it judges policies by teacher-forced agreement on continuations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import numpy as np
from torch import Tensor

from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.runtime.routing import RouteGraph
from autodraft.training.radial.continuations import Continuations, Trial

SWAP_SEQUENCES = 64
"""Continuations that routes are compared on at most."""

_GREEDY_SEQUENCES = 16
_SLACK = 1e-6


def policy_along(nodes: Collection[int], graph: RouteGraph) -> DraftPolicy:
    """The policy that keeps the sub-layers of `nodes`."""
    kept = {sub_layer for node in nodes for sub_layer in range(*graph.sub_layers(node))}
    full = DraftPolicy.uniform(graph.num_sub_layers // 2)
    return full.replace({index: ChannelShares() for index in range(graph.num_sub_layers) if index not in kept})


def best_static_route(
    continuations: Continuations,
    graph: RouteGraph,
    costs: Tensor,
    cost: float,
    *,
    swaps: int = 60,
    seed: int = 0,
    first: Collection[int] | None = None,
    on_step: Callable[[float], None] | None = None,
) -> tuple[int, ...]:
    """Nodes of the best route found that costs at most `cost`.

    Args:
        continuations: where agreement is measured.
        graph: what routes are made of.
        costs: of the nodes.
        cost: that the route may have.
        swaps: mutations tried after the elimination.
        seed: of the mutations.
        first: a route of at most this cost that is known to be good; None finds one by elimination.
        on_step: called with the cost reached during the elimination.
    """
    shares, count = costs.tolist(), len(continuations)
    route = _eliminated(continuations, graph, shares, cost, on_step) if first is None else frozenset(first)
    more = _trials(continuations, range(min(SWAP_SEQUENCES, count)))
    best, random = _agreement(continuations, graph, route, more), np.random.default_rng(seed)
    for _ in range(swaps):
        other = _mutated(route, shares, cost, random)
        if other != route and (agreement := _agreement(continuations, graph, other, more)) > best:
            route, best = other, agreement
    return tuple(sorted(route))


def _eliminated(
    continuations: Continuations,
    graph: RouteGraph,
    shares: list[float],
    cost: float,
    on_step: Callable[[float], None] | None,
) -> frozenset[int]:
    """Without what is missed least per share of the blocks, one node after the other."""
    some = _trials(continuations, range(min(_GREEDY_SEQUENCES, len(continuations))))
    route = frozenset(range(graph.num_nodes))
    while sum(shares[node] for node in route) > cost + _SLACK:
        missed = {
            node: (1.0 + _SLACK - _agreement(continuations, graph, route - {node}, some)) / shares[node]
            for node in sorted(route)
        }
        route = route - {min(missed, key=missed.__getitem__)}
        if on_step is not None:
            on_step(sum(shares[node] for node in route))
    return route


def _mutated(route: frozenset[int], shares: list[float], cost: float, random: np.random.Generator) -> frozenset[int]:
    """One or two nodes less, and others in a random order while they fit."""
    left = set(random.permutation(sorted(route))[int(random.integers(1, 3)) :].tolist())
    for node in random.permutation(len(shares)).tolist():
        if node not in left and sum(shares[kept] for kept in left) + shares[node] <= cost + _SLACK:
            left.add(node)
    return frozenset(left)


def _trials(continuations: Continuations, sequences: Iterable[int]) -> list[Trial]:
    chosen = list(sequences)
    return [continuations.trial(chosen[first : first + 8], stride=2) for first in range(0, len(chosen), 8)]


def _agreement(continuations: Continuations, graph: RouteGraph, nodes: Collection[int], trials: list[Trial]) -> float:
    runtime = continuations.runtime
    plan = runtime.plan(policy_along(nodes, graph))
    matches = [
        int((runtime.forward(plan, continuations.cache, trial.rows).argmax(-1).cpu() == trial.wanted).sum())
        for trial in trials
    ]
    return sum(matches) / sum(len(trial.rows) for trial in trials)
