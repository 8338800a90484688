"""What a router, or any other way through the target's blocks, is worth on held-out continuations.

Knows nothing of training. Agreement is the teacher-forced share of positions where the pass chooses the target's token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from autodraft.policy import FULL_BITS
from autodraft.runtime import ModelSpec, Rows
from autodraft.runtime.plan import DraftPlan, sub_layer_bytes
from autodraft.runtime.routed import RoutedForward
from autodraft.runtime.routing import RouteGraph, Router
from autodraft.training.radial.continuations import Continuations, Trial


@dataclass(frozen=True)
class RouteScore:
    """Means over positions.

    Attributes:
        agreement: share of positions where the target's token is chosen.
        loss: of the target's token, in nats.
        cost: share of the blocks' weights that is run.
        cost_deviation: standard deviation of the latter over positions.
        blocks: nodes run.
        by_depth: agreement at the 1st, 2nd, .. position of a draft.
    """

    agreement: float
    loss: float
    cost: float
    cost_deviation: float
    blocks: float
    by_depth: tuple[float, ...]

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def node_costs(spec: ModelSpec, graph: RouteGraph) -> Tensor:
    """Share of the blocks' weights in each node. [num_nodes]"""
    pair = [sub_layer_bytes(kind, FULL_BITS, spec, 2) for kind in ("attention", "mlp")]
    shares = torch.tensor(pair * spec.num_blocks).float()
    return shares.view(graph.num_nodes, -1).sum(1) / shares.sum()


def score(continuations: Continuations, run: Callable[[Rows], tuple[Tensor, Tensor]], costs: Tensor) -> RouteScore:
    """Judge `run`: rows -> (logits [n, vocab], how often each row ran each node [n, nodes])."""
    found = [_judged(trial, *run(trial.rows)) for trial in continuations.trials()]
    matches, losses, runs = (torch.cat([part[index] for part in found]) for index in range(3))
    cost = runs.float() @ costs
    return RouteScore(
        float(matches.mean()),
        float(losses.mean()),
        float(cost.mean()),
        float(cost.std()),
        float(runs.sum(1).float().mean()),
        tuple(matches.view(-1, continuations.window).mean(0).tolist()),
    )


def _judged(trial: Trial, logits: Tensor, runs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    losses = torch.nn.functional.cross_entropy(logits, trial.wanted.to(logits.device), reduction="none").cpu()
    return (logits.argmax(-1).cpu() == trial.wanted).float(), losses, runs


def score_router(
    continuations: Continuations, router: Router, passed_keys: str = "masked", blocks: DraftPlan | None = None
) -> RouteScore:
    """Judge a router by its likeliest destinations, through `blocks` or those of the target."""
    runtime = continuations.runtime
    routed = RoutedForward(runtime, router.graph, passed_keys, blocks)

    def run(rows: Rows) -> tuple[Tensor, Tensor]:
        logits, passage = routed.along(continuations.cache, rows, router)
        return logits, passage.runs

    return score(continuations, run, node_costs(runtime.spec, router.graph))
