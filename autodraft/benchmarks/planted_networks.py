"""Regression on planted networks by one setting after another: worlds, methods, choices by validation.

Knows nothing of reports. All seeds, restarts and penalties of a method are trained side by side in the same tensors.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autodraft.training.layer_sparsity import (
    FitOptions,
    Networks,
    Samples,
    fit,
    random_networks,
    refit,
    sparse_depths,
    squared_errors,
)

NUM_FEATURES = 5
DIRECTLY = "depth by validation"
_TEST_SAMPLES = 2000


@dataclass(frozen=True)
class Setting:
    """A world.

    Attributes:
        depth: hidden layers of the planted network.
        width: of its layers, and of the student's.
        samples: for training; a quarter as many again for validation.
        noise: standard deviation of what is added to targets of variance one.
    """

    depth: int
    width: int
    samples: int
    noise: float


@dataclass(frozen=True)
class Budget:
    """What every method may spend.

    Attributes:
        seeds: planted networks with their data.
        student_depth: hidden layers of the student.
        penalties: to choose from, ascending.
        steps: of each training.
    """

    seeds: int
    student_depth: int
    penalties: tuple[float, ...]
    steps: int

    @property
    def trainings(self) -> int:
        """Of each method: with every penalty one before and one after merging, so as many for the others."""
        return 2 * len(self.penalties)


@dataclass(frozen=True)
class World:
    """Data of all seeds; that for testing has no noise, so that zero error is the planted network itself."""

    training: Samples
    validation: Samples
    test: Samples


def plant(setting: Setting, seeds: int, generator: torch.Generator) -> World:
    """Random planted networks, each scaled to targets of mean 0 and variance 1 on its own test inputs."""
    truth = random_networks(seeds, (NUM_FEATURES, *[setting.width] * setting.depth, 1), generator)
    sizes = (setting.samples, setting.samples // 4, _TEST_SAMPLES)
    inputs = [torch.randn(seeds, size, NUM_FEATURES, generator=generator) for size in sizes]
    targets = [truth(part) for part in inputs]
    mean, spread = targets[-1].mean(dim=1, keepdim=True), targets[-1].std(dim=1, keepdim=True)
    training, validation, test = ((part - mean) / spread for part in targets)
    for noisy in (training, validation):
        noisy += setting.noise * torch.randn(noisy.shape, generator=generator)
    return World(*(Samples(*pair) for pair in zip(inputs, (training, validation, test), strict=True)))


def within_one_standard_error(errors: Tensor) -> Tensor:
    """The last of several candidates whose error can't be told from the least, `[seeds]`.

    The one-standard-error rule (Hastie, Tibshirani & Friedman, The Elements of Statistical Learning, section 7.10):
    the sparsest within one standard error of the best.

    Args:
        errors: squared errors on the validation part, `[candidates, seeds, samples]`, candidates by rising sparsity.
    """
    means = errors.mean(dim=2)
    least, best = means.min(dim=0)
    spread = errors.std(dim=2).gather(0, best[None])[0] / errors.shape[2] ** 0.5
    numbers = torch.arange(len(means))[:, None]
    return torch.where(means <= least + spread, numbers, -1).max(dim=0).values


class Comparison:
    """All methods in one setting."""

    def __init__(self, setting: Setting, budget: Budget) -> None:
        self.setting, self._budget = setting, budget
        entropy = [setting.depth, setting.width, setting.samples, round(1000 * setting.noise)]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        self._generator = torch.Generator().manual_seed(seed)
        self._direct_generator = torch.Generator().manual_seed(seed + 1)
        self._world = plant(setting, budget.seeds, self._generator)
        self._options = FitOptions(num_steps=budget.steps, batch_size=setting.samples)

    def run(self) -> dict[str, Any]:
        """Test error of each seed under each method, and for two of them depth and penalty, as JSON."""
        started = time.perf_counter()
        methods = {
            "standard": self._of_depth(self._budget.student_depth),
            **self._sparse(),
            "oracle depth": self._of_depth(self.setting.depth),
            DIRECTLY: self.directly(),
        }
        return {**asdict(self.setting), "methods": methods, "seconds": time.perf_counter() - started}

    def directly(self) -> dict[str, Any]:
        """What the data say of depth: without penalty, the shallowest network whose validation error can't be told
        from that of the best, among all numbers of hidden layers up to one more than there are.
        """
        depths = range(self.setting.depth + 1, 0, -1)
        found = [self._restarted(depth, self._direct_generator) for depth in depths]
        choice = within_one_standard_error(torch.stack([validation for validation, _ in found]))
        test_errors = torch.stack([test for _, test in found])
        return {
            "test_error": self._chosen(test_errors, choice),
            "depth": [depths[number] for number in choice.tolist()],
            "test_error_by_depth": {depth: test.tolist() for depth, test in zip(depths, test_errors, strict=True)},
        }

    def _of_depth(self, depth: int) -> dict[str, Any]:
        """Without penalty, the best of several restarts by validation."""
        return {"test_error": self._restarted(depth, self._generator)[1].tolist()}

    def _restarted(self, depth: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Of the best restart by validation: squared errors there `[seeds, samples]`, and test errors `[seeds]`."""
        trained = self._train(depth, [0.0] * self._budget.trainings, generator)
        errors = self._errors([trained], self._world.validation)
        best = errors.mean(dim=2).argmin(dim=0)
        seeds = torch.arange(self._budget.seeds)
        return errors[best, seeds], self._test_errors([trained])[best, seeds]

    def _sparse(self) -> dict[str, Any]:
        """With every penalty, before merging and after refitting; each chooses its penalty by its own validation."""
        trained = self._train(self._budget.student_depth, self._budget.penalties, self._generator)
        training, validation = (self._repeated(part, len(self._budget.penalties)) for part in self._fitted_parts)
        refitted = refit(trained, training, validation, self._options, self._generator).networks
        depths = sparse_depths(trained).reshape(-1, self._budget.seeds)
        results = {}
        for name, networks in (("regularised", [trained]), ("refitted", list(refitted))):
            choice = within_one_standard_error(self._errors(networks, self._world.validation))
            results[name] = {
                "test_error": self._chosen(self._test_errors(networks), choice),
                "depth": self._chosen(depths, choice),
                "penalty": [self._budget.penalties[number] for number in choice.tolist()],
            }
        return results

    @property
    def _fitted_parts(self) -> tuple[Samples, Samples]:
        return self._world.training, self._world.validation

    def _train(self, depth: int, penalties: Sequence[float], generator: torch.Generator) -> Networks:
        """Runs `[penalties x seeds]` from random weights on."""
        num_runs = len(penalties) * self._budget.seeds
        start = random_networks(num_runs, (NUM_FEATURES, *[self.setting.width] * depth, 1), generator)
        training, validation = (self._repeated(part, len(penalties)) for part in self._fitted_parts)
        penalty = torch.tensor(penalties).repeat_interleave(self._budget.seeds)
        return fit(start, training, validation, penalty, self._options, generator).networks

    def _repeated(self, samples: Samples, times: int) -> Samples:
        return samples.select(torch.arange(self._budget.seeds).repeat(times))

    def _errors(self, networks: Sequence[Networks], samples: Samples) -> Tensor:
        """Squared errors `[candidates, seeds, samples]` of all runs, which may be split over `networks`."""
        seeds = self._budget.seeds
        first, parts = 0, []
        for each in networks:
            runs = torch.arange(first, first + each.num_runs) % seeds
            parts.append(squared_errors(each, samples.select(runs)))
            first += each.num_runs
        return torch.cat(parts).reshape(-1, seeds, len(samples))

    def _test_errors(self, networks: Sequence[Networks]) -> Tensor:
        return self._errors(networks, self._world.test).mean(dim=2)

    @staticmethod
    def _chosen(values: Tensor, choice: Tensor) -> list[Any]:
        """For every seed the value of its candidate; `values` `[candidates, seeds]`, `choice` `[seeds]`."""
        chosen: list[Any] = values.gather(0, choice[None])[0].tolist()
        return chosen
