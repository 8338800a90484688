"""`RouteGraph` and `Router`: where a token may go from each block, and the network that decides.

Knows nothing of how blocks are run or of training. After Radial Networks (Dotzel et al., arXiv 2404.04900): from the
residual stream that a token has, a small network picks its next block or the output. States are "before any block" (0)
and "after block i" (i + 1); destinations are the blocks and, last, the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from autodraft.errors import InputError

UNITS = ("block", "sub-layer")


@dataclass(frozen=True)
class RouteGraph:
    """What a route may look like.

    Attributes:
        num_sub_layers: of the target.
        unit: what a step runs: a "block" (attention and MLP) or one "sub-layer".
        reuse: how many steps a token may go back: 0 for forward only, 1 to repeat the block just run, ..
        most_steps: blocks that a token runs at most, repeats counted.
    """

    num_sub_layers: int
    unit: str
    reuse: int
    most_steps: int

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InputError(f"a route is made of {' or '.join(UNITS)}s, not of {self.unit!r}")
        if not 0 <= self.reuse <= self.num_nodes or self.most_steps < 1:
            raise InputError(f"reuse must be in 0..{self.num_nodes} and the number of steps at least 1")

    @property
    def width(self) -> int:
        """Sub-layers of a node."""
        return 2 if self.unit == "block" else 1

    @property
    def num_nodes(self) -> int:
        return self.num_sub_layers // self.width

    @property
    def output(self) -> int:
        """The destination that ends a route."""
        return self.num_nodes

    def sub_layers(self, node: int) -> tuple[int, int]:
        """First sub-layer of a node, and the one after its last."""
        return node * self.width, (node + 1) * self.width

    @cached_property
    def allowed(self) -> Tensor:
        """Whether a destination may follow a state. bool [num_nodes + 1, num_nodes + 1]"""
        states = torch.arange(self.num_nodes + 1)[:, None]
        destinations = torch.arange(self.num_nodes + 1)[None]
        return destinations >= states - self.reuse


@dataclass(frozen=True)
class Router:
    """For every state a network of one hidden layer on the stream divided by its root mean square.

    Attributes:
        graph: what it routes through.
        inputs, inputs_bias: [num_nodes + 1, hidden, width], [num_nodes + 1, width].
        outputs, outputs_bias: [num_nodes + 1, width, num_nodes + 1], [num_nodes + 1, num_nodes + 1].
        expected_cost: share of the blocks' weights that its routes ran on average when it was trained.
    """

    graph: RouteGraph
    inputs: Tensor
    inputs_bias: Tensor
    outputs: Tensor
    outputs_bias: Tensor
    expected_cost: float = 1.0

    def logits(self, state: int, stream: Tensor) -> Tensor:
        """Log-odds of every destination, -inf where the graph has no way. [n, hidden] -> [n, num_nodes + 1]"""
        return self.logits_of_unit(state, unit_rms(stream))

    def logits_of_unit(self, state: int, inputs: Tensor) -> Tensor:
        """The same for streams that are divided by their root mean square already."""
        hidden = torch.relu(torch.addmm(self.inputs_bias[state], inputs, self.inputs[state]))
        odds = torch.addmm(self.outputs_bias[state], hidden, self.outputs[state])
        return odds.masked_fill(~self.graph.allowed[state], -torch.inf)

    def destinations(self, state: int, stream: Tensor) -> Tensor:
        """The likeliest destination of each row. [n, hidden] -> int64 [n]"""
        return self.logits(state, stream).argmax(-1)

    def tensors(self) -> dict[str, Tensor]:
        """The weights by their names."""
        return {field.name: getattr(self, field.name) for field in fields(self)[1:-1]}

    def widened(self, factor: int) -> Router:
        """The router that decides alike on the target widened `factor` times, whose channels are copies."""
        return replace(self, inputs=self.inputs.repeat(1, factor, 1) / factor)

    @classmethod
    def along(
        cls, graph: RouteGraph, nodes: Sequence[int], hidden_size: int, width: int, *, seed: int = 0, lead: float = 5.0
    ) -> Router:
        """An untrained router that takes everybody along `nodes`, with log-odds of `lead` over any other way."""
        generator, states = torch.Generator().manual_seed(seed), graph.num_nodes + 1
        inputs = torch.randn((states, hidden_size, width), generator=generator) * hidden_size**-0.5
        bias = torch.zeros(states, states)
        for state in range(states):
            bias[state, min((node for node in nodes if node >= state), default=graph.output)] = lead
        return cls(graph, inputs, torch.zeros(states, width), torch.zeros(states, width, states), bias)


def unit_rms(stream: Tensor) -> Tensor:
    """Each row divided by its root mean square, so that a router sees directions at every depth alike."""
    return stream * torch.rsqrt(stream.square().mean(-1, keepdim=True) + 1e-6)
