"""A differentiable pass in which every token takes a sampled route: hard choices forward, soft gradients backward.

Gumbel-softmax with straight-through gradients (Jang et al., arXiv 1611.01144), for graphs without a way back. All blocks run
for all tokens; a token's gate decides what is added to its stream, so a choice that was not made has a gradient as well.
Knows nothing of losses or optimisers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autodraft.runtime.routing import Router
from autodraft.training.sub_layers import DraftView, SubLayers


@dataclass(frozen=True)
class RelaxedPass:
    """Logits and gates of one pass.

    Attributes:
        logits: float32 [batch, tokens, vocab].
        gates: 1 where a token ran a node, else 0; gradients flow into the choices. [batch, tokens, num_nodes]
    """

    logits: Tensor
    gates: Tensor


class RelaxedForward(SubLayers):
    """`SubLayers` whose tokens are routed."""

    def routed(
        self, tokens: Tensor, router: Router, temperature: float, generator: torch.Generator, view: DraftView | None
    ) -> RelaxedPass:
        """Logits of sampled routes; tokens see the target's keys and their own with a `view`, else their own ones.

        A token that passes a block by leaves the key and value of the stream that passes there.
        """
        x, tables = self._embed(tokens), self._tables(tokens.shape[1])
        going = _choice(router, 0, x, temperature, generator)  # where each token goes next, one-hot
        gates = []
        for node in range(router.graph.num_nodes):
            gate = going[..., node : node + 1]
            for sub_layer in range(*router.graph.sub_layers(node)):
                block = sub_layer // 2
                branch = self._mlp(x, block) if sub_layer % 2 else self._attention(x, block, *tables, view, None)
                x = x + gate * branch
            gates.append(gate)
            going = gate * _choice(router, node + 1, x, temperature, generator) + (1 - gate) * going
        return RelaxedPass(self._head(x), torch.cat(gates, -1))


def _choice(router: Router, state: int, x: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """A sampled destination of every token as a one-hot vector with the gradient of the softmax."""
    odds = router.logits(state, x.detach().flatten(0, 1)).view(*x.shape[:2], -1)
    uniform = torch.rand(odds.shape, generator=generator).clamp_(1e-9, 1 - 1e-7).to(odds.device)
    soft = torch.softmax((odds - (-uniform.log()).log()) / temperature, -1)
    hard = torch.nn.functional.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
    return hard + soft - soft.detach()
