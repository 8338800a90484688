"""Routed passes in the compiled engine: a router in its layout, and what a draft's slots hold.

Knows nothing of how routes are walked (native/routed.c) or of drafting.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from autodraft.runtime import native_binding as binding
from autodraft.runtime.backend import KVCache
from autodraft.runtime.choosing import Candidates, ChainStop, ChoiceNoise
from autodraft.runtime.plan import DraftPlan
from autodraft.runtime.routing import Router
from autodraft.runtime.rows import Rows
from autodraft.runtime.spec import ModelSpec

if TYPE_CHECKING:
    from autodraft.runtime.native_backend import NativeBackend

_LISTS_PER_ROW = 10  # of routed.c's Walk


class NativeRoutes:
    """A router packed for the engine, for one draft of one decoder.

    Args:
        router: as wide as the target.
        projected: whether blocks that are passed by get keys of the passing stream.
        threads: of the engine; each keeps notes of its own.
    """

    def __init__(self, router: Router, projected: bool, spec: ModelSpec, threads: int) -> None:
        self._spec, self._threads, self._projected = spec, threads, projected
        self._tensors = _packed(router)
        graph = router.graph
        self._router = binding.CRouter(
            *(graph.num_nodes, graph.width, graph.most_steps, graph.reuse > 0),
            *(self._tensors[1].shape[1], self._tensors[3].shape[1]),
            *map(binding.pointer, self._tensors),
        )
        self._written = torch.zeros((threads, 0, spec.num_blocks), dtype=torch.uint8)
        self._streams = torch.empty(0)
        self._notes = torch.empty((threads, 0), dtype=torch.int32)

    def over(self, cache: KVCache, rows: Rows) -> object:
        """The structure for a pass over `rows`, by reference; it lives until the next one."""
        return self.over_chain(cache, len(rows), max(rows.slots) + 1 - cache.length)

    def over_chain(self, cache: KVCache, rows: int, longest_path: int) -> object:
        """The same for passes over at most so many rows that see so many slots behind the committed ones."""
        if self._written.shape[1] < cache.capacity:
            self._written = torch.zeros((self._threads, cache.capacity, self._spec.num_blocks), dtype=torch.uint8)
        notes = _LISTS_PER_ROW * (rows + 1) + rows * longest_path
        if self._notes.shape[1] < notes:
            self._notes = torch.empty((self._threads, notes), dtype=torch.int32)
        if self._streams.numel() < rows * self._spec.hidden_size:
            self._streams = torch.empty(rows * self._spec.hidden_size)
        self._struct = binding.CRouting(
            *(ctypes.pointer(self._router), self._projected, cache.length),
            *(part.data_ptr() for part in (self._written, self._streams, self._notes)),
            *(self._written.stride(0), self._notes.stride(0)),
        )
        return ctypes.byref(self._struct)


class NativePasses:
    """`RoutedPasses` of the engine: one call for a whole pass, and for a whole chain."""

    def __init__(self, backend: NativeBackend, plan: DraftPlan, routes: NativeRoutes) -> None:
        self._backend, self._plan, self._routes = backend, plan, routes

    def logits(self, cache: KVCache, rows: Rows) -> Tensor:
        logits = self._backend.forward(self._plan, cache, rows, routes=self._routes)
        assert logits is not None
        return logits

    def review(
        self, cache: KVCache, rows: Rows, top: int, noise: ChoiceNoise | None, depths: Sequence[int]
    ) -> list[Candidates]:
        return self._backend.review(self._plan, cache, rows, top, noise, depths, self._routes)

    def draft_chain(
        self,
        cache: KVCache,
        fed: Sequence[int],
        offset: int,
        num_tokens: int,
        top: int,
        stop: ChainStop,
        noise: ChoiceNoise | None,
    ) -> list[Candidates]:
        return self._backend.draft_chain(self._plan, cache, fed, offset, num_tokens, top, stop, noise, self._routes)


def _packed(router: Router) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Matrices and biases with hidden units and destinations in multiples of 16; a way that is not allowed has -inf."""
    units = -router.inputs.shape[2] % binding.LANES
    places = -router.outputs.shape[2] % binding.LANES
    bias = router.outputs_bias.masked_fill(~router.graph.allowed, -torch.inf)
    return (
        F.pad(router.inputs, (0, units)).contiguous(),
        F.pad(router.inputs_bias, (0, units)).contiguous(),
        F.pad(router.outputs, (0, places, 0, units)).contiguous(),
        F.pad(bias, (0, places), value=-torch.inf).contiguous(),
    )
