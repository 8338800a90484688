"""A differentiable pass in which every token takes its own route through the sub-layers, all tokens at once.

The same pass as `autodraft.runtime.routed` with masked keys, written for gradients. Knows nothing of how routes are
chosen or of what is learnt.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from autodraft.fitting.sub_layers import DraftView, RotaryTables, SubLayers
from autodraft.runtime.routed import Chooser
from autodraft.runtime.routing import RouteGraph


class RoutedSubLayers(SubLayers):
    """`SubLayers` whose tokens differ in what they run."""

    def routed(self, tokens: Tensor, view: DraftView, graph: RouteGraph, choose: Chooser) -> tuple[Tensor, Tensor]:
        """Logits after the routes that `choose` picks, and how often each token ran each node.

        Args:
            tokens: [batch, tokens].
            view: what a draft sees if all its tokens run everything.
            graph: without ways back.
            choose: is asked for streams [n, hidden] on the CPU by their row numbers in the flattened batch; no
                gradients go through it.

        Returns:
            float32 [batch, tokens, vocab], and int64 [batch * tokens, num_nodes] on the CPU.
        """
        assert not graph.reuse, "a block runs all its tokens at once"
        x, tables = self._embed(tokens), self._tables(tokens.shape[1])
        at = torch.full((tokens.numel(),), graph.output)
        runs = torch.zeros((tokens.numel(), graph.num_nodes), dtype=torch.long)

        def go(state: int, group: Tensor) -> None:
            streams = x.detach().flatten(0, 1)[group.to(x.device)].cpu()
            spent = runs[group].sum(1) >= graph.most_steps
            at[group] = torch.where(spent, graph.output, choose(state, streams, group))

        go(0, torch.arange(tokens.numel()))
        for node in range(graph.num_nodes):
            group = (at == node).nonzero()[:, 0]
            if not len(group):
                continue
            for sub_layer in range(*graph.sub_layers(node)):
                x = self._along(x, sub_layer, group.to(x.device), view, tables)
            runs[group, node] += 1
            go(node + 1, group)
        return self._head(x), runs

    def _along(self, x: Tensor, sub_layer: int, group: Tensor, view: DraftView, tables: RotaryTables) -> Tensor:
        """The stream after the tokens of `group` (numbers in the flattened batch) have run a sub-layer."""
        flat = x.flatten(0, 1)
        if sub_layer % 2:
            return flat.index_add(0, group, self._branch(flat[group], sub_layer, tables)).view_as(x)
        written = torch.zeros(len(flat), dtype=torch.bool, device=x.device)
        written[group] = True
        branch = self._branch(x, sub_layer, tables, _hidden(view, written.view(x.shape[:2])))
        return x + branch * written.view(*x.shape[:2], 1)


def _hidden(view: DraftView, written: Tensor) -> DraftView:
    """The view without keys of tokens that wrote none. Every token sees itself: one that sees nothing has no softmax.

    `written` [batch, tokens]
    """
    target, own = view.mask.to(written.device).chunk(2, dim=1)
    oneself = torch.eye(len(own), dtype=torch.bool, device=own.device)
    seen = own & (written[:, None, None, :] | oneself)
    return replace(view, mask=torch.cat((target.expand(seen.shape), seen), dim=-1))
