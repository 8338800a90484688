"""Penalised least squares for many runs at once, each run's best state by a validation part kept.

Knows networks, data and the optimiser. Does not know how penalties are chosen or what becomes of inactive layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from autodraft.training.layer_sparsity.merging import active_layers
from autodraft.training.layer_sparsity.networks import Networks
from autodraft.training.layer_sparsity.optimiser import ProximalSteps


@dataclass(frozen=True)
class Samples:
    """Data of several runs: inputs `[runs, samples, features]` and targets `[runs, samples, outputs]`."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        """Samples of each run."""
        return self.inputs.shape[1]

    def select(self, runs: Tensor) -> Samples:
        """The data of some of the runs, in the order given; a run may come several times."""
        return Samples(self.inputs[runs], self.targets[runs])

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Samples]:
        """Without end, passes over the samples in ever new order, all runs in the same; an incomplete batch is dropped.

        All samples at once, in their own order, if there are no more than `size`.
        """
        while len(self) <= size:
            yield self
        while True:
            order = torch.randperm(len(self), generator=generator, device=generator.device).to(self.inputs.device)
            for rows in order[: len(self) // size * size].split(size):
                yield Samples(self.inputs[:, rows], self.targets[:, rows])


@dataclass(frozen=True)
class FitOptions:
    """How to train.

    Attributes:
        num_steps: steps of the optimiser.
        learning_rate: of the first step; it falls to zero along a cosine.
        batch_size: samples per step.
        steps_per_evaluation: how often the validation part is looked at.
    """

    num_steps: int = 1000
    learning_rate: float = 0.01
    batch_size: int = 1024
    steps_per_evaluation: int = 20

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from zero."""
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / self.num_steps))


@dataclass(frozen=True)
class Fitted:
    """What training has led to.

    Attributes:
        networks: the kept state of each run.
        validation_loss: its mean squared error on the validation part, `[runs]`.
        has_diverged: runs whose training ended in infinite or undefined values, `[runs]`; the kept state precedes that.
    """

    networks: Networks
    validation_loss: Tensor
    has_diverged: Tensor


def squared_errors(networks: Networks, samples: Samples) -> Tensor:
    """Mean over the outputs for each sample, `[runs, samples]`."""
    return (networks(samples.inputs) - samples.targets).square().mean(dim=2)


def fit(
    networks: Networks,
    training: Samples,
    validation: Samples,
    penalty: Tensor,
    options: FitOptions,
    generator: torch.Generator,
) -> Fitted:
    """Minimise `squared error / 2 + penalty * sum of negative_norm(W^j), 0 < j < l`, from `networks` on.

    The kept state of a run is the best on the validation part since the set of its active layers last changed: without
    a penalty that is early stopping, and with one it doesn't go back to where the penalty hadn't taken effect yet.

    Args:
        networks: where to start; not changed.
        training: what is fitted.
        validation: what decides which state is kept.
        penalty: of each run, `[runs]`; zero for none.
        options: how to train.
        generator: decides about batches.
    """
    layers = [layer.clone().requires_grad_() for layer in networks.layers]
    current = Networks(tuple(layers))
    best, steps = _BestStates(networks, validation), ProximalSteps(layers)
    batches = training.batches(options.batch_size, generator)
    for number in range(1, options.num_steps + 1):
        # Of a sum over runs, every run's gradient is its own: an infinite loss of one leaves the others alone.
        loss = squared_errors(current, next(batches)).mean(dim=1).sum() / 2
        gradients = torch.autograd.grad(loss, layers)
        with torch.no_grad():
            steps.step(layers, gradients, options.rate(number - 1), penalty)
            if number % options.steps_per_evaluation == 0 or number == options.num_steps:
                best.offer(current)
    return best.fitted()


class _BestStates:
    """Of each run, the best state seen since its active layers last changed."""

    def __init__(self, networks: Networks, validation: Samples) -> None:
        self._validation = validation
        self._layers = [layer.detach().clone() for layer in networks.layers]
        self._active = active_layers(networks)
        self._loss = squared_errors(networks, validation).mean(dim=1)
        self._has_diverged = ~self._loss.isfinite()

    def offer(self, networks: Networks) -> None:
        active = active_layers(networks)
        loss = squared_errors(networks, self._validation).mean(dim=1)
        self._has_diverged |= ~loss.isfinite()
        is_new = (active != self._active).any(dim=1)
        is_better = ~self._has_diverged & (is_new | (loss < self._loss))
        self._loss = torch.where(is_better, loss, self._loss)
        self._active = torch.where(is_better[:, None], active, self._active)
        for kept, layer in zip(self._layers, networks.layers, strict=True):
            kept[is_better] = layer[is_better]

    def fitted(self) -> Fitted:
        return Fitted(Networks(tuple(self._layers)), self._loss, self._has_diverged)
