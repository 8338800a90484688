"""`Linears`: how the PyTorch backend multiplies by weights of 16, 8 and 4 bits, and which way this device offers.

Knows nothing of plans or models. Low bits mean what `autodraft.runtime.quantization` says on every device, so a policy
is the same function wherever it runs; what differs is whether fewer bits are also less time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from autodraft.policy import FULL_BITS
from autodraft.runtime.byte_planes import PLANE_BITS, BytePlanes
from autodraft.runtime.quantization import fake_quantize
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.torch_pass import TorchPass
from autodraft.runtime.weights import Matrix, TargetWeights

_logger = logging.getLogger(__name__)
_LEAST_CAPABILITY = (8, 0)  # bfloat16 on tensor cores, and what Triton supports

Linear = Callable[[Tensor], Tensor]
"""x [rows, inputs] in any floating dtype -> x W^T + bias, float32 [rows, outputs]."""


class Linears(Protocol):
    """Makes the linear maps of one backend.

    Attributes:
        available_bits: bit-widths whose speed is real, most precise first.
    """

    available_bits: tuple[int, ...]

    def forward_pass(self, spec: ModelSpec, weights: TargetWeights, dtype: torch.dtype) -> TorchPass:
        """What runs a model whose maps these are."""

    def pack(self, weight: Matrix, bits: int, bias: Tensor | None = None) -> Linear:
        """The map of `weight` [outputs, inputs], rounded to `bits`, and float32 `bias` [outputs].

        At full precision the weight itself is kept, not a copy. Of planes the upper one is the weight at 8 bits.
        """


class SimulatedLinears:
    """PyTorch's own products on any device: fewer bits are the same function as packed ones, not their speed."""

    available_bits: tuple[int, ...] = (FULL_BITS,)

    def forward_pass(self, spec: ModelSpec, weights: TargetWeights, dtype: torch.dtype) -> TorchPass:
        """See `Linears`."""
        return TorchPass(spec, weights, dtype)

    def pack(self, weight: Matrix, bits: int, bias: Tensor | None = None) -> Linear:
        """See `Linears`."""
        rounded = _rounded(weight, bits)

        def linear(x: Tensor) -> Tensor:
            y = F.linear(x.to(rounded.dtype), rounded).float()
            return y if bias is None else y + bias

        return linear


def _rounded(weight: Matrix, bits: int) -> Tensor:
    if isinstance(weight, BytePlanes):
        if bits == PLANE_BITS:
            return weight.upper_values
        weight = weight.joined()
    return fake_quantize(weight, bits)


def linears_for(device: torch.device) -> Linears:
    """The fastest linear maps there are for this device; says so where a CUDA device only gets simulated low bits."""
    if device.type != "cuda":
        return SimulatedLinears()
    obstacle = triton_obstacle(device)
    if obstacle is not None:
        _logger.warning("%s: 8 and 4 bits are simulated here, and a search is offered full precision only", obstacle)
        return SimulatedLinears()
    from autodraft.runtime.triton_linear import TritonLinears

    return TritonLinears()


def triton_obstacle(device: torch.device) -> str | None:
    """Why the low-bit kernels cannot run on a CUDA device; None: they can."""
    if find_spec("triton") is None:
        return "Triton is not installed"
    if torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than the low-bit kernels' compute capability 8.0"
    return None
