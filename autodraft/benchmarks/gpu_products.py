"""Ways to multiply a few rows by a matrix on a CUDA device: the engine's, and what PyTorch's build has.

Knows nothing of time or reports. A way that this build or device lacks raises when it is tried; who asks writes that
down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from autodraft.runtime.quantization import INT4_GROUP_SIZE, quantize_int4

if TYPE_CHECKING:
    from autodraft.runtime.triton_linear import Tile

_INNER_TILES = 8  # of tinygemm's packing: 16 inputs each
_FP8_MAX = 448.0


@dataclass(frozen=True)
class Product:
    """A packed matrix: `multiply(prepare(x), *tensors)` is x W^T, for any copies of `tensors`.

    What `prepare` does to the activations is not part of the product.
    """

    tensors: tuple[Tensor, ...]
    multiply: Callable[..., Tensor]
    prepare: Callable[[Tensor], Any] = field(default=lambda x: x)

    @property
    def num_bytes(self) -> int:
        """What one product reads of the weights, scales included."""
        return sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True)
class Kernel:
    """A way to multiply; `pack` takes bfloat16 [outputs, inputs]."""

    name: str
    bits: int
    pack: Callable[[Tensor], Product]


def torch_kernels() -> list[Kernel]:
    """PyTorch's own."""
    return [
        Kernel("F.linear", 16, lambda weight: Product((weight,), F.linear)),
        Kernel("_scaled_mm, FP8 rowwise", 8, _scaled_mm),
        Kernel("_weight_int4pack_mm, group 32", 4, _tinygemm),
    ]


def engine_kernels() -> list[Kernel]:
    """The engine's, with the tiles that it runs with."""
    return [Kernel("autodraft", bits, _engine_with(bits, None)) for bits in (16, 8, 4)]


def tile_kernels() -> list[Kernel]:
    """The engine's with other tiles, to choose from."""
    from autodraft.runtime.triton_linear import Tile

    return [
        Kernel(
            f"{tile.outputs} x {tile.inputs}, {tile.warps} warps, {tile.stages} stages", bits, _engine_with(bits, tile)
        )
        for bits in (16, 8, 4)
        for outputs, warps in ((16, 1), (32, 2), (32, 4), (64, 4))
        for inputs in (128, 256)
        for stages in (3, 5)
        for tile in (Tile(outputs, inputs, warps, stages),)
    ]


def _engine_with(bits: int, tile: Tile | None) -> Callable[[Tensor], Product]:
    return lambda weight: _engine(weight, bits, tile)


def _engine(weight: Tensor, bits: int, tile: Tile | None) -> Product:
    from autodraft.runtime.triton_linear import TritonLinears

    linear = TritonLinears().pack(weight, bits, tile=tile)
    if linear.scale is None:
        return Product((linear.weight,), lambda x, packed: replace(linear, weight=packed)(x))
    return Product(
        (linear.weight, linear.scale), lambda x, packed, scale: replace(linear, weight=packed, scale=scale)(x)
    )


def _tinygemm(weight: Tensor) -> Product:
    quantized, scale = quantize_int4(weight)  # the weight is (q - 8) * scale, and so is tinygemm's
    pairs = quantized[:, ::2] << 4 | quantized[:, 1::2]
    packed = torch._convert_weight_to_int4pack(pairs.contiguous(), _INNER_TILES)
    scales = torch.stack((scale.T, torch.zeros_like(scale.T)), dim=2).bfloat16().contiguous()
    return Product((packed, scales), lambda x, w, s: torch._weight_int4pack_mm(x, w, INT4_GROUP_SIZE, s))


def _scaled_mm(weight: Tensor) -> Product:
    scale = weight.float().abs().amax(dim=1).clamp_min(1e-12) / _FP8_MAX
    eight = (weight.float() / scale[:, None]).to(torch.float8_e4m3fn)

    return Product((eight, scale), _multiply_fp8, _fp8_rows)


def _fp8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    scale = x.abs().amax(dim=1, keepdim=True).float().clamp_min(1e-12) / _FP8_MAX
    return (x / scale).to(torch.float8_e4m3fn), scale


def _multiply_fp8(rows: tuple[Tensor, Tensor], packed: Tensor, scale: Tensor) -> Tensor:
    return torch._scaled_mm(rows[0], packed.T, rows[1], scale[None, :], out_dtype=torch.bfloat16)


def copies(product: Product, least_bytes: int) -> Iterator[Product]:
    """The same product over copies of its matrix that together take at least `least_bytes`, two at least."""
    for _ in range(max(2, -(-least_bytes // product.num_bytes))):
        yield replace(product, tensors=tuple(tensor.clone() for tensor in product.tensors))
