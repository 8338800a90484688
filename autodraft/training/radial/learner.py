"""`RouteLearner`: REINFORCE with a learned baseline on the routes of single tokens, with clipped steps (PPO).

Knows nothing of models, files or clocks. It samples routes as a `Chooser`, is told what each was worth, and improves.
What a token's route is worth is its score minus the price times its cost; the price rises while routes cost more than
they should on average and falls while they cost less (dual ascent), so the mean cost is a constraint, not a weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from autodraft.runtime.routing import Router, unit_rms

_CLIP, _ENTROPY, _PRICE_RATE, _EPOCHS = 0.2, 0.003, 0.3, 2
_LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class Decision:
    """Rows that stood at one state together, and where they were sent.

    Attributes:
        inputs: what the router saw. [n, hidden]
        chosen: destinations. [n]
        log_odds: log-probability of each. [n]
        rows: row numbers. [n]
    """

    state: int
    inputs: Tensor
    chosen: Tensor
    log_odds: Tensor
    rows: Tensor


class Sampler:
    """A `Chooser` that samples destinations and remembers them."""

    def __init__(self, router: Router, generator: torch.Generator) -> None:
        self.decisions: list[Decision] = []
        self._router, self._generator = router, generator

    def __call__(self, state: int, stream: Tensor, rows: Tensor) -> Tensor:
        log_odds = torch.log_softmax(self._router.logits(state, stream), -1)
        chosen = torch.multinomial(log_odds.exp(), 1, generator=self._generator)[:, 0]
        picked = log_odds.gather(1, chosen[:, None])[:, 0]
        self.decisions.append(Decision(state, unit_rms(stream), chosen, picked, rows))
        return chosen


class RouteLearner:
    """Router, baseline and optimiser.

    Args:
        router: where it starts.
        costs: of each node. [num_nodes]

    Attributes:
        price: of one forward pass through all blocks, in scores.
    """

    def __init__(self, router: Router, costs: Tensor) -> None:
        self._router, self._costs = router, costs
        self._actor: dict[str, Any] = {name: value.clone().requires_grad_() for name, value in router.tensors().items()}
        states, _, width = router.inputs.shape
        baseline = {
            "inputs": router.inputs.clone(),
            "inputs_bias": torch.zeros(states, width),
            "outputs": torch.zeros(states, width, 2),  # expected score, cost to go
            "outputs_bias": torch.tensor([1.0, 0.0]).repeat(states, 1),
        }
        self._baseline = {name: value.requires_grad_() for name, value in baseline.items()}
        self._weights = [*self._actor.values(), *self._baseline.values()]
        self._adam = torch.optim.Adam(self._weights, lr=_LEARNING_RATE, betas=(0.9, 0.98))
        self.price = 0.5

    @property
    def router(self) -> Router:
        """The router as it is now."""
        return replace(self._router, **{name: value.detach().clone() for name, value in self._actor.items()})

    @property
    def is_finite(self) -> bool:
        """Whether every weight is a number."""
        return all(bool(torch.isfinite(weight).all()) for weight in self._weights)

    def learn(self, decisions: list[Decision], scores: Tensor, runs: Tensor, aim: float, progress: float) -> float:
        """One improvement.

        Args:
            decisions: all of one pass.
            scores: what each row's output was worth, without its cost. [n]
            runs: how often each row ran each node. [n, num_nodes]
            aim: mean cost that routes should have now.
            progress: share of the training done; exploration and step size shrink with it.

        Returns:
            The loss of the last epoch; not finite where the training has diverged.
        """
        totals = runs.float() @ self._costs
        self.price = max(0.0, self.price + _PRICE_RATE * (float(totals.mean()) - aim))
        to_go = self._costs_to_go(decisions, totals)
        for group in self._adam.param_groups:
            group["lr"] = _LEARNING_RATE * (1.0 - 0.9 * progress)
        loss = torch.zeros(())
        for _ in range(_EPOCHS):
            loss = self._loss(decisions, scores, to_go, _ENTROPY * (1.0 - progress))
            self._adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
            self._adam.step()
        return float(loss.detach())

    def _costs_to_go(self, decisions: list[Decision], totals: Tensor) -> list[Tensor]:
        """What each decision's rows still spent from then on."""
        spent, to_go, output = torch.zeros_like(totals), [], self._router.graph.output
        for decision in decisions:
            to_go.append(totals[decision.rows] - spent[decision.rows])
            runs = decision.chosen < output
            spent[decision.rows[runs]] += self._costs[decision.chosen[runs]]
        return to_go

    def _loss(self, decisions: list[Decision], scores: Tensor, to_go: list[Tensor], entropy_weight: float) -> Tensor:
        expected = [self._expected(decision) for decision in decisions]
        worths = [scores[decision.rows] - self.price * cost for decision, cost in zip(decisions, to_go, strict=True)]
        gains = [
            worth - (value[:, 0] - self.price * value[:, 1]).detach()
            for worth, value in zip(worths, expected, strict=True)
        ]
        scale = torch.cat(gains).std() + 1e-6
        total = torch.zeros(())
        for decision, value, gain, cost in zip(decisions, expected, gains, to_go, strict=True):
            log_odds = torch.log_softmax(self._logits(decision), -1)
            ratio = (log_odds.gather(1, decision.chosen[:, None])[:, 0] - decision.log_odds).exp()
            gain = gain / scale
            total = total - torch.minimum(ratio * gain, ratio.clamp(1 - _CLIP, 1 + _CLIP) * gain).sum()
            total = total + (value[:, 0] - scores[decision.rows]).square().sum() + (value[:, 1] - cost).square().sum()
            total = total + entropy_weight * (log_odds.exp() * log_odds.clamp(min=-30.0)).sum()
        return total / sum(len(decision.rows) for decision in decisions)

    def _expected(self, decision: Decision) -> Tensor:
        """The baseline's score and cost to go. [n, 2]"""
        net, state = self._baseline, decision.state
        hidden = torch.relu(torch.addmm(net["inputs_bias"][state], decision.inputs, net["inputs"][state]))
        return torch.addmm(net["outputs_bias"][state], hidden, net["outputs"][state])

    def _logits(self, decision: Decision) -> Tensor:
        return replace(self._router, **self._actor).logits_of_unit(decision.state, decision.inputs)

    def state(self) -> dict[str, Any]:
        """Everything that goes on in a resumed training."""
        weights = [weight.detach().clone() for weight in self._weights]
        return {"weights": weights, "adam": self._adam.state_dict(), "price": self.price}

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for weight, saved in zip(self._weights, state["weights"], strict=True):
                weight.copy_(saved)
        self._adam.load_state_dict(state["adam"])
        self.price = state["price"]
