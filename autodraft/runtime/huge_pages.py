"""`HugePages`: memory for tensors that are read again and again, in pages of 2 MiB where the system has them to give.

Knows nothing of weights. A target is read from end to end in every step; with pages of 4 KiB the processor looks up
thousands of addresses on the way, and inside a virtual machine each of them twice.
"""

from __future__ import annotations

import contextlib
import mmap

import torch
from torch import Tensor

_PAGE = 2 << 20
_LEAST_CHUNK = 32 << 20
_ALIGNMENT = 64


class HugePages:
    """Hands out memory that is given back when nothing of a chunk is used any more."""

    def __init__(self) -> None:
        self._chunk: mmap.mmap | None = None
        self._used = 0

    def moved(self, tensor: Tensor) -> Tensor:
        """A contiguous copy of a CPU tensor, in these pages."""
        size = tensor.numel() * tensor.element_size()
        if not size:
            return tensor.contiguous()
        if self._chunk is None or self._used + size > len(self._chunk):
            self._chunk = _chunk(max(_LEAST_CHUNK, -(-size // _PAGE) * _PAGE))
            self._used = 0
        place = torch.frombuffer(self._chunk, dtype=torch.uint8, count=size, offset=self._used)
        self._used += -(-size // _ALIGNMENT) * _ALIGNMENT
        return place.view(tensor.dtype).view(tensor.shape).copy_(tensor)


def _chunk(size: int) -> mmap.mmap:
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return mmap.mmap(-1, size)
    chunk = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory has other rules
    with contextlib.suppress(OSError):  # a kernel without them: ordinary pages do as well
        chunk.madvise(mmap.MADV_HUGEPAGE)
    return chunk
