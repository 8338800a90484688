"""Rounding with compensation against what it computes in a faster way: column by column, least squares for the rest."""

import pytest
import torch

from autodraft.fitting.rounding import rounded
from autodraft.runtime.quantization import INT4_GROUP_SIZE, fake_quantize, quantize_int4


def inputs_of(count: int, size: int, seed: int = 0) -> torch.Tensor:
    """Correlated inputs, as those of a model are. [count, size]"""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, size // 4, generator=generator) @ torch.randn(size // 4, size, generator=generator) + (
        0.3 * torch.randn(count, size, generator=generator)
    )


def slowly_rounded(matrix: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    """After each rounded column, those to its right are what makes the products' error least."""
    size = matrix.shape[1]
    moment = moment.double() + 0.01 * moment.diagonal().mean().double() * torch.eye(size)
    left, result = matrix.double().clone(), torch.empty_like(matrix)
    for column in range(size):
        if column % INT4_GROUP_SIZE == 0:
            scale = quantize_int4(left[:, column : column + INT4_GROUP_SIZE].float())[1][:, 0].float()
        result[:, column] = (left[:, column].float() / scale).round().clamp(-8, 7) * scale
        error = left[:, column] - result[:, column]
        rest = slice(column + 1, size)
        if column + 1 < size:  # min |error x_c + change x_rest|^2 over the change
            left[:, rest] += torch.outer(error, torch.linalg.solve(moment[rest, rest], moment[rest, column]))
    return result


@pytest.mark.parametrize("size", [32, 80])
def test_it_is_least_squares_for_the_columns_that_are_still_free(size):
    torch.manual_seed(1)
    matrix, x = torch.randn(24, size), inputs_of(400, size)
    moment = x.T @ x
    found, expected = rounded([matrix], moment, 4)[0], slowly_rounded(matrix, moment)
    assert float((found == expected).float().mean()) > 0.98  # a tie may fall to the other side
    assert torch.allclose((found - matrix) @ x.T, (expected - matrix) @ x.T, atol=float(x.abs().max()))


def test_products_come_out_closer_than_with_each_weight_rounded_to_the_nearest():
    torch.manual_seed(2)
    matrix, x = torch.randn(64, 96), inputs_of(600, 96)
    errors = [
        ((low - matrix) @ x.T).square().mean() for low in (*rounded([matrix], x.T @ x, 4), fake_quantize(matrix, 4))
    ]
    assert errors[0] < 0.5 * errors[1]


def test_inputs_that_have_nothing_to_do_with_each_other_leave_rounding_to_the_nearest():
    torch.manual_seed(3)
    matrix = torch.randn(16, 64)
    assert torch.equal(rounded([matrix], torch.diag(torch.rand(64) + 0.5), 4)[0], fake_quantize(matrix, 4))
    assert torch.equal(rounded([matrix], torch.zeros(64, 64), 4)[0], fake_quantize(matrix, 4))


def test_at_8_bits_every_weight_goes_to_the_nearest():
    torch.manual_seed(4)
    matrix, x = torch.randn(16, 40), inputs_of(100, 40)
    assert torch.equal(rounded([matrix], x.T @ x, 8)[0], fake_quantize(matrix, 8))


def test_rounding_what_is_rounded_changes_next_to_nothing():
    """A file keeps the rounded weights, and whoever runs them rounds again."""
    torch.manual_seed(5)
    matrix, x = torch.randn(128, 256), inputs_of(2000, 256)
    (low,) = rounded([matrix], x.T @ x, 4)
    again = fake_quantize(low.bfloat16(), 4).float()
    first, second = ((each - matrix) @ x.T for each in (low, again))
    assert float((second - first).square().mean() / first.square().mean()) < 0.05
