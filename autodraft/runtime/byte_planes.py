"""`BytePlanes`: float16 weights as two bytes that lie apart, of which the upper one is a weight of 8 bits by itself.

Knows nothing of models or kernels. After NestedFP (arXiv 2506.02024): for weights of at most 1.75 the top bit of a
float16 exponent is 0, and sign, the other four bits of the exponent and the first three of the mantissa are the E4M3
number 256 times as large, subnormals included. A draft reads the upper plane alone, the target both: a draft at 8 bits
without any memory of its own.

The upper byte is rounded to the nearest, not cut off, and the lower one is what it then lacks, from -64 to 63 in units
of the last bit: magnitudes of floats are ordered as integers are, so the sum of both, as integers, is the float16
weight. That takes fewer instructions than the correction of NestedFP, whose lower byte has the bits as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PLANE_BITS = 8
"""Bits of a weight that is an upper plane alone."""
LARGEST = 1.75
"""Of the weights that have planes, in magnitude: 448, the largest E4M3 number, over 256."""
_LOWER_BITS = 7
_SIGN = -0x8000
_WITHOUT_SIGN = 0x7FFF


def fits_float16(weight: Tensor) -> bool:
    """Whether float16 holds the same numbers, as where a float16 checkpoint was read as float32."""
    return torch.equal(weight.half().to(weight.dtype), weight)


@dataclass(frozen=True)
class BytePlanes:
    """A matrix in two planes.

    Attributes:
        upper: E4M3 of 256 times the weights, as its bits. int8 [outputs, inputs]
        lower: what is to be added to the magnitude, in units of the last bit of float16. int8 [outputs, inputs]
        dtype: of the matrix as the model has it.
    """

    upper: Tensor
    lower: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, weight: Tensor) -> BytePlanes | None:
        """The planes of a matrix; None where it is no float16 one or has weights beyond `LARGEST`."""
        if not fits_float16(weight) or weight.abs().amax() > LARGEST:
            return None
        bits = weight.half().contiguous().view(torch.int16)
        magnitude = bits & _WITHOUT_SIGN
        upper = (magnitude + (1 << (_LOWER_BITS - 1))) >> _LOWER_BITS
        lower = magnitude - (upper << _LOWER_BITS)
        signed = torch.where(bits < 0, upper - 128, upper)
        return cls(signed.to(torch.int8), lower.to(torch.int8), weight.dtype)

    @property
    def shape(self) -> torch.Size:
        """[outputs, inputs]"""
        return self.upper.shape

    @property
    def upper_values(self) -> Tensor:
        """The weights that the upper plane alone is, in `dtype`."""
        return _from_bits(_upper_bits(self.upper)).to(self.dtype)

    def joined(self) -> Tensor:
        """The matrix itself, in `dtype`."""
        return _from_bits(_upper_bits(self.upper) + self.lower).to(self.dtype)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> BytePlanes:
        """The same change of order, or zeros put in, on both planes."""
        return BytePlanes(change(self.upper), change(self.lower), self.dtype)

    def split(self, sizes: Sequence[int]) -> list[BytePlanes]:
        """So many rows each, as parts of these planes."""
        uppers, lowers = self.upper.split(list(sizes)), self.lower.split(list(sizes))
        return [BytePlanes(upper, lower, self.dtype) for upper, lower in zip(uppers, lowers, strict=True)]


def _upper_bits(upper: Tensor) -> Tensor:
    """Upper bytes as float16 bits. int16"""
    wide = upper.to(torch.int16)
    return ((wide & 0x7F) << _LOWER_BITS) | (wide & _SIGN)


def _from_bits(bits: Tensor) -> Tensor:
    return bits.view(torch.float16)
