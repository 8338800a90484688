"""`RouterRecipe`: what decides the result of a router's training; equal recipes, equal routers."""

from __future__ import annotations

from dataclasses import dataclass

from autodraft.policy import FULL_BITS
from autodraft.runtime.routing import RouteGraph


@dataclass(frozen=True)
class RouterRecipe:
    """Everything that decides the result.

    Attributes:
        cost: mean share of the blocks' weights that a token may run.
        width: hidden units of the router.
        start: nodes of the first route.
        steps: improvements.
        rows_per_step: tokens whose routes are tried in each.
        identity: names target and text.
        bits: bit-width of the blocks.
        trains_blocks: whether they learn with the router.
        learning_rate: highest one of the blocks' matrices, by Muon.
    """

    cost: float
    unit: str
    reuse: int
    most_steps: int
    width: int
    start: tuple[int, ...]
    steps: int
    rows_per_step: int
    seed: int
    identity: str
    bits: int = FULL_BITS
    trains_blocks: bool = False
    learning_rate: float = 0.0
    warmup_share: float = 0.02
    final_lr_share: float = 0.05

    def graph(self, num_sub_layers: int) -> RouteGraph:
        """What the routes are made of, through a target of so many sub-layers."""
        return RouteGraph(num_sub_layers, self.unit, self.reuse, self.most_steps)
