"""What the benchmarks ask of a CUDA device besides times: whether there is one, and its memory.

Knows nothing of what is measured.
"""

from __future__ import annotations

import sys

import torch

from autodraft.runtime.memory import available_bytes

_NO_DEVICE = "this machine has no usable CUDA device; there is nothing to measure"


def require_cuda() -> None:
    """One line on stderr and exit code 2 where there is no CUDA device."""
    if not torch.cuda.is_available():
        print(f"error: {_NO_DEVICE}", file=sys.stderr)
        raise SystemExit(2)


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be allocated; None: not a CUDA device."""
    return available_bytes(device) if device.type == "cuda" else None


def peak_bytes(device: torch.device) -> int | None:
    """The most that tensors of this process have taken at once; None: not a CUDA device."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
