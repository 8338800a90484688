"""Norms, activations and rotary embedding in PyTorch, for every family. Knows nothing of caches, rows or training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.weights import Norm


def apply_norm(x: Tensor, norm: Norm | None, spec: ModelSpec) -> Tensor:
    """RMSNorm or LayerNorm over the last dimension of `x`, float32; without one `x` itself."""
    if norm is None:
        return x
    if spec.norm == "layer":
        return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, spec.norm_eps)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + spec.norm_eps) * norm.weight


def _norm_heads(heads: Tensor, norm: Norm | None, spec: ModelSpec, channels: Tensor | None = None) -> Tensor:
    """Norms of queries or keys, float32 [.., heads, head_dim]; a joint one over these heads.

    `channels`: the KV heads that they belong to, where those are not all.
    """
    if norm is None or not spec.joint_qk_norm:
        return apply_norm(heads, norm, spec)
    return apply_norm(heads.flatten(-2), joint_norm(norm, spec, channels), spec).view_as(heads)


def placed_heads(
    heads: Tensor,
    norm: Norm | None,
    spec: ModelSpec,
    cos: Tensor | None,
    sin: Tensor | None,
    channels: Tensor | None = None,
) -> Tensor:
    """Queries or keys normed and rotated, in the family's order; see `_norm_heads` and `rotate`."""
    if spec.norms_rotated:
        return _norm_heads(rotate(heads, cos, sin, spec.rotates_pairs), norm, spec, channels)
    return rotate(_norm_heads(heads, norm, spec, channels), cos, sin, spec.rotates_pairs)


def joint_norm(norm: Norm, spec: ModelSpec, channels: Tensor | None) -> Norm:
    """The part of a joint norm that belongs to some KV heads."""
    if channels is None:
        return norm
    return Norm(norm.weight.view(spec.num_kv_heads, -1)[channels].flatten(), None)


def capped(x: Tensor, cap: float | None) -> Tensor:
    """Within `cap`, which it approaches; without one `x` itself."""
    return x if cap is None else cap * torch.tanh(x / cap)


def activate(x: Tensor, spec: ModelSpec) -> Tensor:
    """The activation of an MLP."""
    if spec.activation == "relu2":
        return F.relu(x).square()
    if spec.activation == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
    activated: Tensor = getattr(F, spec.activation)(x)
    return activated


def rotate(x: Tensor, cos: Tensor | None, sin: Tensor | None, in_pairs: bool = False) -> Tensor:
    """Rotary embedding of halves, or of neighbouring channels, as the family pairs them; without tables `x` itself.

    x [..., heads, head_dim]; cos, sin [..., 1, rotary_dim / 2].
    """
    if cos is None or sin is None:
        return x
    half = cos.shape[-1]
    if in_pairs:
        first, second, rest = x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2], x[..., 2 * half :]
        rotated = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1)
        return torch.cat((rotated.flatten(-2), rest), dim=-1)
    first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)
