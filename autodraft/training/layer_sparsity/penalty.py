"""The layer-sparsity penalty of Hebiri & Lederer (arXiv 2006.15604) and its proximal operator.

Knows single layers `[runs, outputs, inputs + 1]`, not networks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def negative_norm(layer: Tensor) -> Tensor:
    """The 2-norm of the negative parts of each run's matrix, `[runs]`; zero exactly where no entry is negative.

    The paper's networks have no biases. Here a layer's matrix acts on its input extended by a one, which is as
    non-negative as the rest, so that its last column, the bias, belongs to the group like any other.
    """
    norm: Tensor = torch.linalg.vector_norm(layer.clamp(max=0.0), dim=(1, 2))
    return norm


def shrink_negative_part(layer: Tensor, threshold: Tensor) -> Tensor:
    """The proximal operator of `threshold * negative_norm`, each run with its own threshold `[runs]`.

    The penalty does not see positive entries, and it never pays a negative entry to turn positive. So positive entries
    stay, and the vector of negative entries is shrunk as a whole (group soft-thresholding): its norm by the threshold,
    to exactly zero if it is no longer than that.
    """
    norm = negative_norm(layer)
    factor = torch.where(norm > threshold, 1.0 - threshold / norm, 0.0)
    return torch.where(layer < 0.0, layer * factor[:, None, None], layer)
