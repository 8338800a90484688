"""Rounding to low bits that makes good in later inputs what it does to earlier ones.

GPTQ (Frantar et al., arXiv 2210.17323): what is minimised is the error of the products with inputs of which the second
moment is known, not that of the weights. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autodraft.runtime.quantization import INT4_GROUP_SIZE, INT4_ZERO, fake_quantize, quantize_int4

_DAMPING = 0.01
"""Of the mean second moment, added to each: inputs that were never seen must not be free."""


def rounded(matrices: Sequence[Tensor], moment: Tensor, bits: int) -> list[Tensor]:
    """Matrices of the same inputs on the grid of `bits`, in float32. [outputs, inputs] each

    At 4 bits the error of each column is made good by those to its right; at 8 bits it is too small to be worth it.

    Args:
        matrices: [outputs, inputs] each.
        moment: sum over inputs of x x^T, [inputs, inputs].
        bits: 8 or 4.
    """
    if bits != 4:
        return [fake_quantize(matrix.float(), bits) for matrix in matrices]
    factor = _inverse_factor(moment)
    return [_compensated(matrix, factor) for matrix in matrices]


def _compensated(matrix: Tensor, factor: Tensor) -> Tensor:
    left, result = matrix.float().clone(), torch.empty_like(matrix, dtype=torch.float32)
    for start in range(0, matrix.shape[1], INT4_GROUP_SIZE):
        group = slice(start, min(start + INT4_GROUP_SIZE, matrix.shape[1]))
        result[:, group], errors = _rounded_group(left[:, group], factor[group, group])
        left[:, group.stop :] -= errors @ factor[group, group.stop :]
    return result


def _rounded_group(weights: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Columns that share a scale: on its grid, and each one's error over its diagonal entry. Both [outputs, columns]"""
    scale = quantize_int4(weights)[1][:, 0].float()
    columns = weights.T.contiguous()  # one after another in memory, for a head has very many outputs
    errors = torch.empty_like(columns)
    for index in range(len(columns)):
        wanted = columns[index].clone()
        columns[index] = (wanted / scale).round_().clamp_(-INT4_ZERO, INT4_ZERO - 1) * scale
        errors[index] = (wanted - columns[index]) / factor[index, index]
        columns[index + 1 :] -= factor[index, index + 1 :, None] * errors[index]
    return columns.T, errors.T


def _inverse_factor(moment: Tensor) -> Tensor:
    """The upper triangular U with U^T U = (moment + damping)^-1: row i says how later columns answer for column i.

    From the other end: with moment = R R^T, R upper triangular, U is the inverse of R.
    """
    mean = float(moment.diagonal().mean()) or 1.0
    identity = torch.eye(len(moment), device=moment.device)
    damped = moment.float() + _DAMPING * mean * identity
    upper = torch.linalg.cholesky(damped.flip(0, 1)).flip(0, 1)
    factor: Tensor = torch.linalg.solve_triangular(upper, identity, upper=True)
    return factor
