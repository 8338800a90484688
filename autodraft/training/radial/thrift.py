"""A trained router at exactly the mean cost that was asked for.

Training meets the cost with sampled routes; the likeliest ones that decoding takes cost a little more or less. One
number closes the gap: every destination is preferred by `thrift` per share of the blocks that is passed by on the way.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from autodraft.errors import TrainingError
from autodraft.runtime.plan import DraftPlan
from autodraft.runtime.routed import RoutedForward
from autodraft.runtime.routing import Router
from autodraft.training.radial.continuations import Continuations

_STEPS, _WIDEST, _TOLERANCE = 14, 1024.0, 0.02
_CLOSE = 0.01  # a cost that is left as it is: refitted blocks have not learnt the routes that a change would lead to
_SEQUENCES, _STRIDE = 24, 4


def with_mean_cost(
    router: Router, continuations: Continuations, costs: Tensor, cost: float, blocks: DraftPlan | None = None
) -> Router:
    """The router whose likeliest routes cost `cost` on average, or as much less as single routes leave no choice.

    One that is a hundredth of all blocks away from it, or less, stays as it is. `blocks` are what is run; None: the
    target's.

    Raises:
        TrainingError: even the thriftiest routes cost more.
    """
    low, high = -_WIDEST, _WIDEST

    def mean_cost(thrift: float) -> float:
        return _mean_cost(_thrifty(router, costs, thrift), continuations, costs, blocks)

    if abs((unchanged := mean_cost(0.0)) - cost) <= _CLOSE:
        return replace(router, expected_cost=unchanged)
    least = mean_cost(high)
    if least > cost + _TOLERANCE:
        raise TrainingError(f"no route of this router is as cheap as {cost:g} of the blocks: the least is {least:.2f}")
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if mean_cost(middle) > cost:
            low = middle
        else:
            high = middle
    return replace(_thrifty(router, costs, high), expected_cost=mean_cost(high))


def _thrifty(router: Router, costs: Tensor, thrift: float) -> Router:
    before = torch.cat((torch.zeros(1), costs.cumsum(0)))  # share of the blocks that lies before a node
    passed = before[None, :] - before[:, None]  # [state, destination]; less than nothing on the way back
    return replace(router, outputs_bias=router.outputs_bias + thrift * passed)


def _mean_cost(router: Router, continuations: Continuations, costs: Tensor, blocks: DraftPlan | None) -> float:
    rows = continuations.trial(range(min(_SEQUENCES, len(continuations))), stride=_STRIDE).rows
    routed = RoutedForward(continuations.runtime, router.graph, blocks=blocks)
    passage = routed.run(continuations.cache, rows, lambda state, stream, _: router.destinations(state, stream))
    return float((passage.runs.float() @ costs).mean())
