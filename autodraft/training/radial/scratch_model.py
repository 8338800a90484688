"""`RadialNetwork`: a small transformer whose tokens take their routes through its blocks while both are being learnt.

Knows nothing of targets, data or optimisers. Routes go forward: from before the first block, or after a block, a token
picks a later block or the output. In training a pick is drawn (Gumbel noise) and its gradient is that of the softmax
behind it (straight through); without noise the likeliest place is taken. A token that passes a block by leaves no key
there. Without a router it is the ordinary sequential transformer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autodraft.runtime.operations import rotate
from autodraft.runtime.routing import RouteGraph, Router, unit_rms

_EPS, _TEMPERATURE, _FIRST_LEAD, _FIRST_STD = 1e-6, 1.0, 3.0, 0.02


@dataclass(frozen=True)
class NetworkShape:
    """Sizes; `router_width` hidden units in the router of each state, 0 for a sequential network."""

    vocab_size: int
    num_blocks: int
    router_width: int = 0
    hidden_size: int = 128
    num_heads: int = 4
    intermediate_size: int = 320


class Block(nn.Module):
    """Attention and MLP, pre-norm, as a Llama's."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        hidden, inner = shape.hidden_size, shape.intermediate_size
        self.num_heads = shape.num_heads
        self.attention_norm, self.mlp_norm = nn.Parameter(torch.ones(hidden)), nn.Parameter(torch.ones(hidden))
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden, bias=False), nn.Linear(hidden, hidden, bias=False)
        self.gate_up, self.down = nn.Linear(hidden, 2 * inner, bias=False), nn.Linear(inner, hidden, bias=False)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor, present: Tensor, angles: Tensor) -> Tensor:
        """What the block adds to `x` [batch, tokens, hidden]; `present` says who leaves a key. bool [batch, tokens]"""
        added = self._attention(_norm(x, self.attention_norm), present, angles)
        gate, up = self.gate_up(_norm(x + added, self.mlp_norm)).chunk(2, -1)
        inner: Tensor = self.down(F.silu(gate) * up)
        return added + inner

    def _attention(self, x: Tensor, present: Tensor, angles: Tensor) -> Tensor:
        batch, tokens, hidden = x.shape
        query, key, value = self.qkv(x).view(batch, tokens, 3, self.num_heads, -1).unbind(2)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        own = torch.eye(tokens, dtype=torch.bool)
        seen = (torch.ones(tokens, tokens, dtype=torch.bool).tril() & present[:, None, :]) | own
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))  # [batch, heads, tokens, head_dim]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None])
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, hidden))
        return out


class RadialNetwork(nn.Module):
    """Embedding (which is the head too), blocks, and a router where the shape has one."""

    def __init__(self, shape: NetworkShape, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.embedding = nn.Parameter(torch.randn(shape.vocab_size, shape.hidden_size) * _FIRST_STD)
            self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_blocks))
        self.norm = nn.Parameter(torch.ones(shape.hidden_size))
        self.shape, self._router = shape, _untrained(shape, seed)
        tensors = {} if self._router is None else self._router.tensors()
        self.routing = nn.ParameterDict({name: nn.Parameter(value.clone()) for name, value in tensors.items()})
        head_dim = shape.hidden_size // shape.num_heads
        self._frequencies = 10000.0 ** -(torch.arange(0, head_dim, 2) / head_dim)

    def forward(
        self, tokens: Tensor, noise: torch.Generator | None = None, thrift: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Logits [batch, tokens, vocab], and 1 where a token ran a block. [batch, tokens, blocks]

        `thrift` makes every place likelier by so much per block that is passed by on the way to it.
        """
        x = self.embedding[tokens] * self.shape.hidden_size**0.5
        angles = torch.arange(tokens.shape[1])[:, None] * self._frequencies
        arrivals, runs = self._pick(0, x, noise, thrift), []
        for index, block in enumerate(self.blocks):
            run = arrivals[..., index]
            x = x + run[..., None] * block(x, run.detach() > 0.5, angles)
            arrivals = arrivals + run[..., None] * self._pick(index + 1, x, noise, thrift)
            runs.append(run)
        return F.linear(_norm(x, self.norm), self.embedding), torch.stack(runs, -1)

    def _pick(self, state: int, x: Tensor, noise: torch.Generator | None, thrift: float) -> Tensor:
        """Where each token goes from a state: 1 there and 0 elsewhere. [batch, tokens, blocks + 1]"""
        places = self.shape.num_blocks + 1
        if self._router is None:
            return F.one_hot(torch.full(x.shape[:2], state), places).float()
        weights: dict[str, Any] = dict(self.routing)
        router = replace(self._router, **weights)
        odds = router.logits_of_unit(state, unit_rms(x).flatten(0, 1)).view(*x.shape[:2], places)
        odds = odds + thrift * (torch.arange(places) - state)
        if noise is None:
            return F.one_hot(odds.argmax(-1), places).float()
        gumbel = -torch.log(-torch.log(torch.rand(odds.shape, generator=noise).clamp(1e-9, 1 - 1e-7)))
        soft = torch.softmax((odds + gumbel) / _TEMPERATURE, -1)
        return F.one_hot(soft.argmax(-1), places) - soft.detach() + soft


def _untrained(shape: NetworkShape, seed: int) -> Router | None:
    """A router that mostly takes the next block."""
    if not shape.router_width:
        return None
    graph = RouteGraph(2 * shape.num_blocks, "block", 0, shape.num_blocks)
    nodes, width = range(shape.num_blocks), shape.router_width
    return Router.along(graph, nodes, shape.hidden_size, width, seed=seed, lead=_FIRST_LEAD)


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPS) * weight
