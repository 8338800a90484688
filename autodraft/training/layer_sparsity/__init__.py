"""Layer sparsity in feed-forward networks, after Hebiri & Lederer, "Layer Sparsity in Neural Networks", 2006.15604.

A ReLU layer whose input is non-negative and whose weights are non-negative is linear, and merges with the next one
without a change of the function (`merging`). So depth can be learned: penalise, in each layer, the 2-norm of the
negative parts of its matrix as one group (`penalty`), train by proximal gradient steps (`optimiser`, `fitting`), merge
the layers that have no negative weight left, and train the shallower network again (`refitting`).

`LayerSparseRegressor` is all of this behind scikit-learn's interface; it needs the extra `sklearn`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autodraft.training.layer_sparsity.fitting import FitOptions, Fitted, Samples, fit, squared_errors
from autodraft.training.layer_sparsity.merging import active_layers, merge_inactive, sparse_depths
from autodraft.training.layer_sparsity.networks import Networks, random_networks, stack
from autodraft.training.layer_sparsity.penalty import negative_norm, shrink_negative_part
from autodraft.training.layer_sparsity.refitting import Refitted, refit

if TYPE_CHECKING:
    from autodraft.training.layer_sparsity.estimator import LayerSparseRegressor

__all__ = [
    "LayerSparseRegressor",
    "Networks",
    "random_networks",
    "stack",
    "negative_norm",
    "shrink_negative_part",
    "active_layers",
    "sparse_depths",
    "merge_inactive",
    "Samples",
    "FitOptions",
    "Fitted",
    "fit",
    "squared_errors",
    "Refitted",
    "refit",
]


def __getattr__(name: str) -> Any:
    """The estimator, imported when it is asked for: scikit-learn is optional."""
    if name != "LayerSparseRegressor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from autodraft.training.layer_sparsity.estimator import LayerSparseRegressor
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sklearn":
            raise
        raise ImportError("LayerSparseRegressor needs scikit-learn: pip install 'autodraft[sklearn]'") from error
    return LayerSparseRegressor
