"""`TorchCache`: keys and values of a target and its drafts as PyTorch tensors. Knows nothing of forward passes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autodraft.runtime.backend import moves_of_commit
from autodraft.runtime.spec import ModelSpec

ROW_PADDING = 16
"""Rows of a forward pass come in multiples of this."""
KEY_BLOCK = 256
"""Keys are visited in blocks of this many slots."""


class TorchCache:
    """Keys and values as [blocks, kv_heads, slots, head_dim] tensors, with spare slots for padding rows."""

    def __init__(self, spec: ModelSpec, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self.capacity = capacity
        self.length = 0
        self.slots = -(-(capacity + ROW_PADDING) // KEY_BLOCK) * KEY_BLOCK
        shape = (spec.num_blocks, spec.num_kv_heads, self.slots, spec.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def commit(self, slots: Sequence[int]) -> None:
        for target, source in moves_of_commit(self, slots):
            self.keys[:, :, target] = self.keys[:, :, source]
            self.values[:, :, target] = self.values[:, :, source]
        self.length += len(slots)

    def truncate(self, length: int) -> None:
        self.length = min(self.length, length)
