"""Merging and training again: networks that are as deep as their active layers say, free of the penalty's shrinkage.

Knows how to keep networks of different depth together; training itself is `fitting`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from autodraft.training.layer_sparsity.fitting import FitOptions, Samples, fit
from autodraft.training.layer_sparsity.merging import merge_inactive
from autodraft.training.layer_sparsity.networks import Networks, stack


@dataclass(frozen=True)
class Refitted:
    """Merged networks after training without penalty.

    Attributes:
        networks: one of a single run for each run given, with the layers that were active there.
        validation_loss: see `Fitted`, `[runs]`.
        has_diverged: see `Fitted`, `[runs]`.
    """

    networks: tuple[Networks, ...]
    validation_loss: Tensor
    has_diverged: Tensor


def refit(
    networks: Networks, training: Samples, validation: Samples, options: FitOptions, generator: torch.Generator
) -> Refitted:
    """Merge every run's inactive layers and train what is left, from the merged weights on and without penalty.

    Runs that have come down to the same shape are trained side by side. Arguments as of `fit`.
    """
    merged = [merge_inactive(networks.select([run])) for run in range(networks.num_runs)]
    runs_of: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for run, network in enumerate(merged):
        runs_of[network.shape].append(run)
    loss = training.inputs.new_empty(networks.num_runs)
    has_diverged = torch.empty_like(loss, dtype=torch.bool)
    for runs in runs_of.values():
        index = torch.tensor(runs, device=loss.device)
        start, no_penalty = stack([merged[run] for run in runs]), loss.new_zeros(len(runs))
        fitted = fit(start, training.select(index), validation.select(index), no_penalty, options, generator)
        loss[index], has_diverged[index] = fitted.validation_loss, fitted.has_diverged
        for position, run in enumerate(runs):
            merged[run] = fitted.networks.select([position])
    return Refitted(tuple(merged), loss, has_diverged)
