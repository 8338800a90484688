"""Linear maps on CUDA devices: weights at 16, 8 and 4 bits packed for the Triton kernels, and their launch.

Knows nothing of plans or models. Importing this needs Triton, which PyTorch's CUDA builds for Linux bring along.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
from torch import Tensor

from autodraft.policy import FULL_BITS
from autodraft.runtime.byte_planes import PLANE_BITS, BytePlanes
from autodraft.runtime.quantization import INT4_GROUP_SIZE, quantize_int4, quantize_int8
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.torch_pass import TorchPass
from autodraft.runtime.triton_kernels import ROW_BLOCK, per_channel, per_group
from autodraft.runtime.triton_row_kernels import round_row, row_per_channel, row_per_group
from autodraft.runtime.weights import Matrix, TargetWeights


@dataclass(frozen=True)
class Tile:
    """What one program makes and how: a choice of speed, fixed for a matrix whatever the number of rows.

    Attributes:
        outputs, inputs: powers of two, at least 16, and 64 or, at 4 bits, 128. `inputs` is what one step of the loop
            reads.
        warps: of 32 threads.
        stages: tiles of weights on their way from memory at once.
        ahead: lines of 128 bytes of each row of weights that are fetched before the inputs are there.
    """

    outputs: int
    inputs: int
    warps: int
    stages: int
    ahead: int = 4


@dataclass(frozen=True)
class RowTile:
    """The same for a single row without tensor cores; powers of two, `inputs` at least 32."""

    outputs: int
    inputs: int
    warps: int


TILES = {8: Tile(32, 256, 4, 5), 4: Tile(64, 256, 4, 3)}
"""Of products on tensor cores at low bits."""
_ROW_TILE_8, _ROW_TILE_4, _WIDE_ROW_TILE_4 = RowTile(4, 1024, 1), RowTile(8, 2048, 4), RowTile(8, 4096, 4)
_WIDE = 4096  # inputs
_MANY, _SOME, _FEW = Tile(16, 128, 2, 6), Tile(16, 512, 2, 3), Tile(16, 512, 2, 4)
_ROUNDED_GROUPS = 32  # per program
_EARLY_CAPABILITY = (9, 0)


@dataclass(frozen=True)
class RoundedRow:
    """A single row of inputs as `store_rounded` makes it.

    Attributes:
        words: four inputs in each; groups padded with zeros. int32 [groups, 8]
        scale: float32 [groups]
        correction: int32 [groups], for weights of 4 bits; for those of 8 bits None.
    """

    words: Tensor
    scale: Tensor
    correction: Tensor | None

    @classmethod
    def empty(cls, inputs: int, bits: int, device: torch.device) -> RoundedRow:
        """Room for `inputs` of them, for weights of so many bits."""
        groups = -(-inputs // INT4_GROUP_SIZE)
        words = torch.empty((groups, 8), dtype=torch.int32, device=device)
        scale = torch.empty(groups, dtype=torch.float32, device=device)
        return cls(words, scale, torch.empty(groups, dtype=torch.int32, device=device) if bits == 4 else None)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """As kernels take them."""
        return self.words.view(torch.int8), self.scale, self.correction


@dataclass(frozen=True)
class TritonLinear:
    """A packed linear map; see `autodraft.runtime.linears.Linear`.

    Attributes:
        weight, lower, scale: as `per_channel` or, three-dimensional, as `per_group` takes them.
        bias: float32 [outputs], or None.
        dtype: of the activations that the product takes.
        tile: of products on tensor cores.
        row_tile: of products of a single row; None: those also run on tensor cores.
    """

    weight: Tensor
    scale: Tensor | None
    bias: Tensor | None
    dtype: torch.dtype
    inputs: int
    tile: Tile
    row_tile: RowTile | None
    lower: Tensor | None = None

    def rounding(self, rows: int) -> int | None:
        """Bits of the weights where so many rows may also come as a `RoundedRow`; None: they may not."""
        if rows > 1 or self.row_tile is None:
            return None
        return 4 if self.weight.ndim == 3 else 8

    def __call__(self, x: Tensor | RoundedRow, into: Tensor | None = None) -> Tensor:
        """x [rows, inputs] -> float32 [rows, outputs]; added to `into` where that is given."""
        with torch.cuda.device_of(self.weight):  # Triton launches on the current device
            if isinstance(x, Tensor):
                x = x.to(self.dtype).contiguous()
                bits = self.rounding(len(x))
                x = x if bits is None else _rounded(x, bits)
            y, adds = into, into is not None
            if y is None:
                rows = len(x) if isinstance(x, Tensor) else 1
                y = torch.empty((rows, len(self.weight)), dtype=torch.float32, device=self.weight.device)
            if isinstance(x, Tensor):
                self._multiply(x, y, adds)
            else:
                self._multiply_row(x, y, adds)
        return y

    def activated(self, x: Tensor, activation: str, gated: bool) -> Tensor:
        """x [rows, inputs] -> the products, activated, as `dtype` [rows, outputs]; not where rows may come rounded.

        Gated: the first half of the outputs are gates of the other one. -> [rows, outputs / 2]
        """
        assert self.rounding(len(x)) is None
        with torch.cuda.device_of(self.weight):
            x = x.to(self.dtype).contiguous()
            width = len(self.weight) // (2 if gated else 1)
            y = torch.empty((len(x), width), dtype=self.dtype, device=self.weight.device)
            self._multiply(x, y, False, activation, gated)
        return y

    def _multiply(self, x: Tensor, y: Tensor, adds: bool, activation: str | None = None, gated: bool = False) -> None:
        rows, outputs, tile = len(x), len(self.weight), self.tile
        grid = (-(-rows // ROW_BLOCK.value), -(-outputs // tile.outputs))
        options = {"num_warps": tile.warps, "num_stages": tile.stages, "LINES": tile.ahead, **early(x)}
        scaled = (self.scale, self.bias, y, rows, outputs, self.inputs)
        whole, finish = self.inputs % tile.inputs == 0, (adds, activation, gated)
        if self.weight.ndim == 3:
            groups, block = self.weight.shape[1], tile.inputs // INT4_GROUP_SIZE
            per_group[grid](x, self.weight, *scaled, groups, *finish, tile.outputs, block, whole, **options)
        else:
            given = (x, self.weight, self.lower, *scaled)
            per_channel[grid](*given, *finish, tile.outputs, tile.inputs, whole, **options)

    def _multiply_row(self, x: RoundedRow, y: Tensor, adds: bool) -> None:
        tile, outputs = self.row_tile, y.shape[1]
        assert tile is not None
        grid = (-(-outputs // tile.outputs),)
        options = {"NATIVE": not _interpreted(), "num_warps": tile.warps, **early(y)}
        if self.weight.ndim == 3:
            groups, block = len(x.scale), tile.inputs // INT4_GROUP_SIZE
            given = (x.words, x.scale, x.correction, self.weight, self.scale, self.bias, y, outputs, groups)
            row_per_group[grid](*given, adds, tile.outputs, block, groups % block == 0, **options)
        else:
            words, block, weight = self.inputs // 4, tile.inputs // INT4_GROUP_SIZE, self.weight.view(torch.int32)
            where = (x.words, x.scale, weight, self.scale, self.bias, y, outputs, words)
            row_per_channel[grid](*where, adds, tile.outputs, block, words % (8 * block) == 0, **options)


def _rounded(x: Tensor, bits: int) -> RoundedRow:
    """A single row, for weights of so many bits."""
    row = RoundedRow.empty(x.shape[1], bits, x.device)
    groups = len(row.scale)
    where = (x, *row.tensors, x.shape[1], groups)
    round_row[(-(-groups // _ROUNDED_GROUPS),)](*where, _ROUNDED_GROUPS, num_warps=1, **early(x))
    return row


def early(x: Tensor) -> dict[str, bool]:
    """Options of a launch that may overlap with the end of the kernel ahead, where the device can do that."""
    return {"EARLY": True, "launch_pdl": True} if _overlaps(x.device) else {"EARLY": False}


@cache
def _overlaps(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _EARLY_CAPABILITY


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, which knows no machine instructions."""
    return bool(triton.knobs.runtime.interpret)


def full_tile(outputs: int, processors: int) -> Tile:
    """Of products at 16 bits: as deep as leaves room on the multiprocessors for all of a matrix's programs at once.

    With few outputs there are few programs, and each must have more on its way from memory.
    """
    per_processor = -(-outputs // _FEW.outputs) / processors
    return _FEW if per_processor <= 2 else _SOME if per_processor <= 3 else _MANY


def row_tile(bits: int, inputs: int) -> RowTile | None:
    """Of products of a single row without tensor cores; None: 16 bits, or rows of weights that are no whole words.

    Programs are few enough to start while the kernel ahead ends, and a warp adds up what it has read.
    """
    if bits == 8:
        return None if inputs % 4 else _ROW_TILE_8
    return {4: _WIDE_ROW_TILE_4 if inputs > _WIDE else _ROW_TILE_4}.get(bits)


class TritonLinears:
    """Low bits that are less memory traffic, on CUDA devices; see `autodraft.runtime.linears.Linears`."""

    available_bits: tuple[int, ...] = (FULL_BITS, 8, 4)

    def forward_pass(self, spec: ModelSpec, weights: TargetWeights, dtype: torch.dtype) -> TorchPass:
        """See `Linears`."""
        from autodraft.runtime.triton_pass import TritonPass, is_fused

        return (TritonPass if is_fused(spec) else TorchPass)(spec, weights, dtype)

    def pack(self, weight: Matrix, bits: int, bias: Tensor | None = None, tile: Tile | None = None) -> TritonLinear:
        """See `Linears`; a tile given is the one for any number of rows, single ones too."""
        if isinstance(weight, BytePlanes):
            if bits in (FULL_BITS, PLANE_BITS):
                return _of_planes(weight, bits, bias, tile)
            weight = weight.joined()
        packed, scale = weight, None
        if bits == 8:
            packed, scale = quantize_int8(weight)
        elif bits == 4:
            quantized, scale = quantize_int4(weight)
            packed, scale = _words(quantized), scale.to(weight.dtype)
        inputs = weight.shape[1]
        for_row = row_tile(bits, inputs) if tile is None else None
        tile = tile or TILES.get(bits) or full_tile(len(weight), _processors(weight.device))
        return TritonLinear(packed.contiguous(), scale, bias, weight.dtype, inputs, tile, for_row)


def _of_planes(planes: BytePlanes, bits: int, bias: Tensor | None, tile: Tile | None) -> TritonLinear:
    """Both planes, or at 8 bits the upper one; single rows run on tensor cores too, for their weights are floats."""
    outputs, inputs = planes.shape
    tile = tile or TILES.get(bits) or full_tile(outputs, _processors(planes.upper.device))
    lower = planes.lower if bits == FULL_BITS else None
    return TritonLinear(planes.upper, None, bias, planes.dtype, inputs, tile, None, lower)


def _words(quantized: Tensor) -> Tensor:
    """uint8 in 0..15 [outputs, groups * 32] -> int32 [outputs, groups, 4] in the order of `per_group`."""
    parts = quantized.view(len(quantized), -1, 8, INT4_GROUP_SIZE // 8)
    words = torch.zeros_like(parts[:, :, 0], dtype=torch.int32)
    for number in range(8):
        words |= parts[:, :, number].to(torch.int32) << (4 * number)
    return words
