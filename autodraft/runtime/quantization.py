"""Round-to-nearest weight quantization: what 8 and 4 bits mean in a policy.

Knows nothing of packing or kernels. Symmetric, per output channel at 8 bits, per group of 32 inputs at
4 bits. Drafts only: a draft may be wrong, the target verifies it, so nothing here is calibrated.
"""

from __future__ import annotations

import torch
from torch import Tensor

INT4_GROUP_SIZE = 32
INT4_ZERO = 8
_INT4_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`(int8 [outputs, inputs], float32 scale [outputs])` with weight ~ quantized * scale."""
    weight = weight.float()
    scale = weight.abs().amax(dim=1).clamp_min(1e-12) / 127.0
    return torch.round(weight / scale[:, None]).clamp_(-127, 127).to(torch.int8), scale


def quantize_int4(weight: Tensor, group_size: int = INT4_GROUP_SIZE) -> tuple[Tensor, Tensor]:
    """`(uint8 in 0..15 [outputs, padded inputs], bfloat16 scale [outputs, groups])`, weight ~ (q - 8) * scale.

    Inputs are padded with zeros to whole groups. The largest weight of a group maps to -8, the wider
    side of the range, and of a few shrunken scales the one with the least squared error is taken. A scale in 32 bits
    would be a fifth of what is read.
    """
    outputs, inputs = weight.shape
    groups = -(-inputs // group_size)
    padded = torch.nn.functional.pad(weight.float(), (0, groups * group_size - inputs))
    padded = padded.view(outputs, groups, group_size)
    extreme = padded.gather(2, padded.abs().argmax(dim=2, keepdim=True))  # signed
    base = torch.where(extreme == 0, torch.ones_like(extreme), extreme / -INT4_ZERO)
    best_error = torch.full((outputs, groups, 1), torch.inf, device=weight.device)
    best_scale = base.bfloat16().float()
    for shrink in _INT4_SHRINKS:
        scale = (base * shrink).bfloat16().float()
        rounded = (padded / scale).round_().clamp_(-INT4_ZERO, 7)
        error = (rounded * scale - padded).square_().sum(dim=2, keepdim=True)
        best_scale = torch.where(error < best_error, scale, best_scale)
        best_error = torch.minimum(error, best_error)
    quantized = (padded / best_scale).round_().clamp_(-INT4_ZERO, 7).add_(INT4_ZERO).to(torch.uint8)
    return quantized.view(outputs, groups * group_size), best_scale.squeeze(2).bfloat16()


def fake_quantize(weight: Tensor, bits: int) -> Tensor:
    """`weight` rounded to `bits` and back, in its dtype: the function of the low-bit weights, not their speed."""
    if bits == 8:
        quantized, scale = quantize_int8(weight)
        return (quantized.float() * scale[:, None]).to(weight.dtype)
    if bits == 4:
        quantized, scale = quantize_int4(weight)
        grouped = (quantized.float() - INT4_ZERO).view(*scale.shape, INT4_GROUP_SIZE) * scale[:, :, None]
        return grouped.view(weight.shape[0], -1)[:, : weight.shape[1]].to(weight.dtype)
    return weight


def weight_bytes(outputs: int, inputs: int, bits: int, full_bytes: int) -> int:
    """Memory of one matrix at `bits`, scales included; `full_bytes` is the target's bytes per weight."""
    if bits == 8:
        return outputs * inputs + 4 * outputs
    if bits == 4:
        groups = -(-inputs // INT4_GROUP_SIZE)
        return outputs * groups * (INT4_GROUP_SIZE // 2 + 2)
    return outputs * inputs * full_bytes
