"""The controllers: networks that decide one sub-layer at a time, as policies of stable-baselines3.

Know nothing of environments, evaluators or training. Layer and channel controller share one form: an encoder of the
current sub-layer and of what has been decided, the same weights at every step, and a head that prefers the option of
least priced loss. What the two criteria of that preference are worth (the price of time, the price of memory) is
learnt, as a function of what is seen, budgets included; a network adds to it what single figures cannot say. Before
anything is learnt the controller is a knapsack at a cautious price: it keeps what is not clearly worth dropping.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from autodraft.policies.observation import PER_OPTION, PRICE_FLOOR, PRICES, Layout
from autodraft.policies.prices import HIGHEST_PRICE, LOWEST_PRICE
from autodraft.policies.proxy import Prior

WIDTH = 32


class SubLayerEncoder(BaseFeaturesExtractor):
    """An observation -> its encoding, followed by the loss, time and memory of every option as they were seen.

    The prices at which the budgets are kept are not encoded; with `prices` they follow at the end.

    Args:
        observation_space: of a sequential environment.
        num_options: options of a step.
        width: of the encoding.
        prices: whether the prices are wanted.
    """

    def __init__(
        self, observation_space: spaces.Box, num_options: int, width: int = WIDTH, prices: bool = False
    ) -> None:
        super().__init__(observation_space, features_dim=width + 3 * num_options + (len(PRICES) if prices else 0))
        layout = Layout(num_options)
        assert observation_space.shape == (layout.size,)
        self._figures = [layout.of_options(name) for name in PER_OPTION[:3]]
        self._seen = layout.size_without_prices
        if prices:
            self._figures.append(slice(self._seen, layout.size))
        self.encoder = nn.Sequential(nn.Linear(self._seen, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())

    def forward(self, observations: Tensor) -> Tensor:
        """[batch, figures] -> [batch, width + 3 * options (+ prices)]"""
        figures = [observations[:, figure] for figure in self._figures]
        return torch.cat([self.encoder(observations[:, : self._seen]), *figures], dim=1)


class PricedOptions(nn.Module):
    """Logits of the options: minus their priced loss, times a sharpness, plus what the encoding adds.

    Prices are learnt, and no lower than those at which the budgets are kept; how strictly is learnt too.

    Args:
        width: of the encoding.
        num_options: options of a step.
        prior: where to start; the encoding adds nothing then.
    """

    def __init__(self, width: int, num_options: int, prior: Prior) -> None:
        super().__init__()
        self._sizes = (width, num_options, num_options, num_options, len(PRICES))
        self.prices = nn.Linear(width, 2)
        self.residual = nn.Linear(width, num_options)
        self.strictness = nn.Parameter(torch.zeros(len(PRICES), width))
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(prior.sharpness)))
        for layer in (self.prices, self.residual):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.prices.bias[0] = math.log(prior.price)
            self.prices.bias[1] = math.log(LOWEST_PRICE)  # memory is worth nothing while there is enough

    def forward(self, latent: Tensor) -> Tensor:
        """[batch, width + 3 * options + prices] -> [batch, options]"""
        encoding, loss, time, memory, seen = latent.split(self._sizes, dim=1)
        needed = price_at(seen) * (encoding @ self.strictness.T).exp()
        time_price, memory_price = torch.maximum(self.prices(encoding).exp(), needed).split(1, dim=1)
        priced = loss + time_price * time + memory_price * memory
        return cast(Tensor, self.residual(encoding) - self.log_sharpness.exp() * priced)


def price_at(scale: Tensor) -> Tensor:
    """The price that stands at a place of the observation's scale; 0 stands for none."""
    logarithm = (scale - PRICE_FLOOR) / (1.0 - PRICE_FLOOR) * math.log(HIGHEST_PRICE / LOWEST_PRICE)
    return torch.where(scale > 0, LOWEST_PRICE * logarithm.exp(), torch.zeros_like(scale))


class _Controller:
    """What the two classes below have in common: the encoder, the priced head, a small value network."""

    def __init__(
        self, *args: Any, num_options: int, price: float, sharpness: float, width: int = WIDTH, **kwargs: Any
    ) -> None:
        self._width, self._num_options, self._prior = width, num_options, Prior(price, sharpness)
        kwargs |= {
            "features_extractor_class": SubLayerEncoder,
            "features_extractor_kwargs": {"num_options": num_options, "width": width, "prices": True},
            "net_arch": {"pi": [], "vf": [width]},
        }
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]
        self.action_net = PricedOptions(self._width, self._num_options, self._prior)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[attr-defined]


class Controller(_Controller, ActorCriticPolicy):  # type: ignore[misc]
    """A controller for PPO and A2C: an option outside the mask is replaced by the environment."""


class MaskableController(_Controller, MaskableActorCriticPolicy):  # type: ignore[misc]
    """A controller for MaskablePPO: only options of the mask are ever drawn."""
