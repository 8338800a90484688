"""What the benchmarks ask of a CUDA device besides times: whether there is one, and its memory.

Knows nothing of what is measured.
"""

from __future__ import annotations

import sys

import torch

_NO_DEVICE = "this machine has no usable CUDA device; there is nothing to measure"


def require_cuda() -> None:
    """One line on stderr and exit code 2 where there is no CUDA device."""
    if not torch.cuda.is_available():
        print(f"error: {_NO_DEVICE}", file=sys.stderr)
        raise SystemExit(2)


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be allocated, what the allocator keeps in reserve included; None: not a CUDA device."""
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def peak_bytes(device: torch.device) -> int | None:
    """The most that tensors of this process have taken at once; None: not a CUDA device."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
