"""`NativeCache`: the KV cache of the compiled engine, in its layouts. Knows nothing of models or of who writes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autodraft.runtime import native_binding as binding
from autodraft.runtime.backend import moves_of_commit
from autodraft.runtime.spec import ModelSpec

_SLOTS_PER_TILE = 32


class NativeCache:
    """Keys and values as native/attention.h lays them out; the axes of `keys` and `values` are named there."""

    def __init__(self, spec: ModelSpec, capacity: int, dtype: torch.dtype) -> None:
        self.capacity = capacity
        self.length = 0
        heads, dim, lanes = (spec.num_blocks, spec.num_kv_heads), spec.head_dim, binding.LANES
        tiles = -(-capacity // _SLOTS_PER_TILE)
        if dtype == torch.bfloat16:
            self.keys = torch.zeros((*heads, 2 * tiles, dim // 2, lanes, 2), dtype=dtype)
            self.values = torch.zeros((*heads, tiles, dim // lanes, _SLOTS_PER_TILE // 2, lanes, 2), dtype=dtype)
        else:
            self.keys = torch.zeros((*heads, 2 * tiles, dim, lanes), dtype=dtype)
            self.values = torch.zeros((*heads, tiles * _SLOTS_PER_TILE, dim), dtype=dtype)
        self.struct = binding.CCache(self.keys.data_ptr(), self.values.data_ptr(), tiles * _SLOTS_PER_TILE)

    def commit(self, slots: Sequence[int]) -> None:
        for target, source in moves_of_commit(self, slots):
            self._key(target).copy_(self._key(source))
            self._value(target).copy_(self._value(source))
        self.length += len(slots)

    def _key(self, slot: int) -> Tensor:
        return self.keys[:, :, slot // binding.LANES, :, slot % binding.LANES]

    def _value(self, slot: int) -> Tensor:
        if self.values.ndim == 4:
            return self.values[:, :, slot]
        tile, place = divmod(slot, _SLOTS_PER_TILE)
        return self.values[:, :, tile, :, place // 2, :, place % 2]

    def truncate(self, length: int) -> None:
        self.length = min(self.length, length)
