"""Layer sparsity behind scikit-learn's interface.

Knows scaling, splitting and scikit-learn's conventions; the method is in the modules beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from autodraft.training.layer_sparsity.fitting import FitOptions, Samples
from autodraft.training.layer_sparsity.fitting import fit as fit_networks
from autodraft.training.layer_sparsity.merging import active_layers, merge_inactive
from autodraft.training.layer_sparsity.networks import random_networks
from autodraft.training.layer_sparsity.refitting import refit as refit_networks


class LayerSparseRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Regression by a ReLU network that finds out how many layers it needs.

    A deep network is trained by penalised least squares, the layers that have become linear are merged, and the
    shallower network is trained again without penalty (see `autodraft.training.layer_sparsity`). Features and targets
    are brought to mean 0 and variance 1 first, so that one penalty fits data of any scale. Computes in double precision
    on the processor.

    Args:
        hidden_layer_sizes: width of each hidden layer of the deep network.
        penalty: strength of the layer-sparsity penalty; 0 for none.
        refit: whether the merged network is trained again.
        num_steps: steps of the optimiser, in each of the two trainings.
        learning_rate: of the first step.
        batch_size: samples per step.
        validation_fraction: share of the samples that decides which state of a training is kept.
        random_state: seed or generator (scikit-learn's conventions) of split, weights and batches.

    Attributes:
        network_: the fitted network, merged, on scaled features and targets; a single run.
        deep_network_: what the penalised training kept, not merged.
        active_layers_: which of the hidden layers from the second on did not merge, bool `[hidden layers - 1]`.
        depth_: number of hidden layers of `network_`.
        has_diverged_: whether a training ended in infinite or undefined values; the best state before that was kept.
        n_features_in_: number of features seen by `fit`.
    """

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (16,) * 8,
        *,
        penalty: float = 0.1,
        refit: bool = True,
        num_steps: int = 1000,
        learning_rate: float = 0.01,
        batch_size: int = 1024,
        validation_fraction: float = 0.2,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.penalty = penalty
        self.refit = refit
        self.num_steps = num_steps
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit to features `[samples, features]` and targets `[samples]` or `[samples, outputs]`.

        Raises:
            ValueError: a parameter out of its range, or data that scikit-learn refuses (NaN, one sample, ...).

        Warns:
            ConvergenceWarning: training has diverged; the best state before that is kept.
            UserWarning: the penalty has left no layer active, or all targets are equal.
        """
        self._check_parameters()
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, ensure_min_samples=2)
        targets = np.asarray(y, dtype=np.float64)
        self._has_single_output = targets.ndim == 1
        targets = targets.reshape(len(targets), -1)
        self._input_scaler, self._target_scaler = StandardScaler().fit(X), StandardScaler().fit(targets)
        is_constant = bool((targets == targets[0]).all())
        self._train(self._input_scaler.transform(X), self._target_scaler.transform(targets), is_constant)
        self._warn(is_constant)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predicted targets, `[samples]` or `[samples, outputs]` as those that were fitted."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        with torch.no_grad():
            outputs = self.network_(torch.from_numpy(self._input_scaler.transform(X))[None])[0].numpy()
        predicted: NDArray[np.float64] = self._target_scaler.inverse_transform(outputs)
        return predicted[:, 0] if self._has_single_output else predicted

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _check_parameters(self) -> None:
        demands = {
            "hidden_layer_sizes must name at least one layer, and widths of 1 or more": (
                len(self.hidden_layer_sizes) > 0 and min(self.hidden_layer_sizes) >= 1
            ),
            "penalty must be 0 or more, and finite": 0.0 <= self.penalty < np.inf,
            "num_steps must be 1 or more": self.num_steps >= 1,
            "learning_rate must be above 0, and finite": 0.0 < self.learning_rate < np.inf,
            "batch_size must be 1 or more": self.batch_size >= 1,
            "validation_fraction must be between 0 and 1": 0.0 < self.validation_fraction < 1.0,
        }
        for demand, is_met in demands.items():
            if not is_met:
                raise ValueError(f"{demand}, not {getattr(self, demand.split()[0])!r}")

    def _train(self, inputs: NDArray[np.float64], targets: NDArray[np.float64], is_constant: bool) -> None:
        random = check_random_state(self.random_state)
        training, validation = self._split(inputs, targets, random)
        generator = torch.Generator().manual_seed(int(random.randint(2**31 - 1)))
        options = FitOptions(0 if is_constant else self.num_steps, self.learning_rate, self.batch_size)
        shape = (inputs.shape[1], *self.hidden_layer_sizes, targets.shape[1])
        start = random_networks(1, shape, generator, torch.float64)
        if is_constant:
            start.layers[-1].zero_()
        penalty = torch.tensor([self.penalty], dtype=torch.float64)
        fitted = fit_networks(start, training, validation, penalty, options, generator)
        self.deep_network_ = fitted.networks
        self.active_layers_ = active_layers(fitted.networks)[0].numpy()
        self.has_diverged_ = bool(fitted.has_diverged)
        self.network_ = merge_inactive(fitted.networks)
        if self.refit:
            refitted = refit_networks(fitted.networks, training, validation, options, generator)
            self.network_ = refitted.networks[0]
            self.has_diverged_ |= bool(refitted.has_diverged)
        self.depth_ = self.network_.depth

    def _split(
        self, inputs: NDArray[np.float64], targets: NDArray[np.float64], random: np.random.RandomState
    ) -> tuple[Samples, Samples]:
        """Training and validation part, as one run each."""
        parts = train_test_split(inputs, targets, test_size=self.validation_fraction, random_state=random)
        train_inputs, valid_inputs, train_targets, valid_targets = (torch.from_numpy(part)[None] for part in parts)
        return Samples(train_inputs, train_targets), Samples(valid_inputs, valid_targets)

    def _warn(self, is_constant: bool) -> None:
        if self.has_diverged_:
            message = "training has diverged; the best state before that is kept: try a smaller learning_rate"
            warnings.warn(message, ConvergenceWarning, stacklevel=3)
        if is_constant:
            message = "all targets are equal: there is nothing to learn, and that value is predicted everywhere"
            warnings.warn(message, UserWarning, stacklevel=3)
        elif self.penalty > 0.0 and len(self.active_layers_) and not self.active_layers_.any():
            message = (
                f"penalty={self.penalty:g} has left no layer active of those that may merge: one hidden layer remains,"
                " the least there can be; if that fits badly, try a smaller penalty"
            )
            warnings.warn(message, UserWarning, stacklevel=3)
