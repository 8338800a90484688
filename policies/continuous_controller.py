"""Controllers that name a number instead of an option: actors for SAC, and for DDPG and TD3.

Know nothing of environments or training. The number's place in [-1, 1] says which option is taken, dropped first. An
actor begins where the controllers with discrete options begin: its number lies in the middle of the option of least
priced loss, and it strays from it about as often.
"""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import Actor as GaussianActor
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import Tensor, nn

from autodraft.policies.controller import WIDTH, PricedOptions, SubLayerEncoder
from autodraft.policies.proxy import Prior

STRAYING_SIGMA = 0.64
"""Sigma, over the part of the interval that an option has on either side, of noise that leaves it one time in eight."""


class PricedPosition(nn.Module):
    """A number before its tanh: the mean place of the options as `PricedOptions` weighs them.

    Args:
        width: of the encoding.
        num_options: options of a step.
        prior: where to start.
    """

    centres: Tensor

    def __init__(self, width: int, num_options: int, prior: Prior) -> None:
        super().__init__()
        self.options = PricedOptions(width, num_options, prior)
        self.register_buffer("centres", (2.0 * torch.arange(num_options) + 1.0) / num_options - 1.0)

    def forward(self, latent: Tensor) -> Tensor:
        """[batch, width + 3 * options + prices] -> [batch, 1]"""
        place: Tensor = self.options(latent).softmax(dim=1) @ self.centres
        return place.atanh().unsqueeze(1)


class _ContinuousController:
    """What the two classes below have in common: the encoder, and the priced place as the actor's first layer."""

    def __init__(
        self, *args: Any, num_options: int, price: float, sharpness: float, width: int = WIDTH, **kwargs: Any
    ) -> None:
        self._width, self._num_options, self._prior = width, num_options, Prior(price, sharpness)
        kwargs |= {
            "features_extractor_class": SubLayerEncoder,
            "features_extractor_kwargs": {"num_options": num_options, "width": width, "prices": True},
            "net_arch": {"pi": [], "qf": [2 * width]},
        }
        super().__init__(*args, **kwargs)

    def _position(self) -> PricedPosition:
        return PricedPosition(self._width, self._num_options, self._prior)


class GaussianController(_ContinuousController, SACPolicy):
    """A controller for SAC."""

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> GaussianActor:
        actor = super().make_actor(features_extractor)
        actor.mu = self._position()
        assert isinstance(actor.log_std, nn.Linear)
        nn.init.zeros_(actor.log_std.weight)
        nn.init.constant_(actor.log_std.bias, torch.tensor(STRAYING_SIGMA / self._num_options).log().item())
        return actor


class DeterministicController(_ContinuousController, TD3Policy):
    """A controller for DDPG and TD3."""

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        actor = super().make_actor(features_extractor)
        actor.mu = nn.Sequential(self._position(), nn.Tanh())
        return actor
