"""Linear maps on CUDA devices: weights at 16, 8 and 4 bits packed for the Triton kernels, and their launch.

Knows nothing of plans or models. Importing this needs Triton, which PyTorch's CUDA builds for Linux bring along.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autodraft.policy import FULL_BITS
from autodraft.runtime.quantization import INT4_GROUP_SIZE, quantize_int4, quantize_int8
from autodraft.runtime.triton_kernels import ROW_BLOCK, per_channel, per_group


@dataclass(frozen=True)
class Tile:
    """What one program makes and how: a choice of speed, fixed for a matrix whatever the number of rows.

    Attributes:
        outputs, inputs: powers of two, at least 16 and 64; `inputs` is what one step of the loop reads.
        warps: of 32 threads.
        stages: tiles of weights on their way from memory at once.
    """

    outputs: int
    inputs: int
    warps: int
    stages: int


# Not tuned on a device yet: chosen by bytes in flight and by instructions per weight in the compiled kernels.
TILES = {16: Tile(32, 128, 4, 4), 8: Tile(32, 256, 4, 4), 4: Tile(32, 256, 4, 4)}


@dataclass(frozen=True)
class TritonLinear:
    """A packed linear map; see `autodraft.runtime.linears.Linear`.

    Attributes:
        weight, scale: as `per_channel` or, three-dimensional, as `per_group` takes them.
        bias: float32 [outputs], or None.
        dtype: of the activations that the product takes.
    """

    weight: Tensor
    scale: Tensor | None
    bias: Tensor | None
    dtype: torch.dtype
    inputs: int
    tile: Tile

    def __call__(self, x: Tensor) -> Tensor:
        """x [rows, inputs] -> float32 [rows, outputs]."""
        x = x.to(self.dtype).contiguous()
        rows, outputs = len(x), len(self.weight)
        y = torch.empty(rows, outputs, dtype=torch.float32, device=x.device)
        grid = (-(-rows // ROW_BLOCK.value), -(-outputs // self.tile.outputs))
        options = {"num_warps": self.tile.warps, "num_stages": self.tile.stages}
        where = (x, self.weight, self.scale, self.bias, y, rows, outputs, self.inputs)
        whole = self.inputs % self.tile.inputs == 0
        with torch.cuda.device_of(x):  # Triton launches on the current device
            if self.weight.ndim == 3:
                groups, block = self.weight.shape[1], self.tile.inputs // INT4_GROUP_SIZE
                per_group[grid](*where, groups, self.tile.outputs, block, whole, **options)
            else:
                per_channel[grid](*where, self.tile.outputs, self.tile.inputs, whole, **options)
        return y


class TritonLinears:
    """Low bits that are less memory traffic, on CUDA devices; see `autodraft.runtime.linears.Linears`."""

    available_bits: tuple[int, ...] = (FULL_BITS, 8, 4)

    def pack(self, weight: Tensor, bits: int, bias: Tensor | None = None, tile: Tile | None = None) -> TritonLinear:
        """See `Linears`; `tile` replaces the one that `TILES` has for these bits."""
        packed, scale = weight, None
        if bits == 8:
            packed, scale = quantize_int8(weight)
        elif bits == 4:
            quantized, scale = quantize_int4(weight)
            packed, scale = _words(quantized), scale.to(weight.dtype)
        return TritonLinear(packed.contiguous(), scale, bias, weight.dtype, weight.shape[1], tile or TILES[bits])


def _words(quantized: Tensor) -> Tensor:
    """uint8 in 0..15 [outputs, groups * 32] -> int16 [outputs, groups, 8] in the order of `per_group`."""
    parts = quantized.view(len(quantized), -1, 4, INT4_GROUP_SIZE // 4).to(torch.int32)
    words = parts[:, :, 0] | parts[:, :, 1] << 4 | parts[:, :, 2] << 8 | parts[:, :, 3] << 12
    return words.to(torch.int16)  # keeps the lower 16 bits
