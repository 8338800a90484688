"""The compiled CPU backend: one C call per forward pass over weights at 16 (or 32), 8 and 4 bits.

Row-invariant by construction: the logits of a row are bitwise the same whatever else is in the call and
in whichever slots its ancestors lie, so verification reproduces autoregressive decoding exactly, without
padding, for chains and trees. Knows nothing of decoding.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autodraft.errors import AutodraftError
from autodraft.policy import FULL_BITS, DraftPolicy
from autodraft.runtime import native_binding as binding
from autodraft.runtime import native_cycles
from autodraft.runtime.backend import KVCache
from autodraft.runtime.choosing import Candidates, ChainStop, ChoiceNoise
from autodraft.runtime.cycles import Cycle, CycleBounds, StandingDraft
from autodraft.runtime.draft_weights import DraftWeights
from autodraft.runtime.native_build import NativeUnavailableError, load_library
from autodraft.runtime.native_cache import NativeCache
from autodraft.runtime.native_model import FULL_KINDS, arithmetic_dtype, model_struct
from autodraft.runtime.native_packing import Packing, Payload
from autodraft.runtime.native_routing import NativePasses, NativeRoutes
from autodraft.runtime.plan import DraftPlan
from autodraft.runtime.routing import Router
from autodraft.runtime.rows import Rows
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.weights import TargetWeights

_MAX_GROUP = 64  # MAX_QUERIES in forward.c


class NativeBackend:
    """Calls the C engine; see `Backend` for the contract."""

    name = "native"
    available_bits: tuple[int, ...] = (FULL_BITS, 8, 4)
    capture_s = 0.0

    def __init__(
        self,
        spec: ModelSpec,
        weights: TargetWeights,
        dtype: torch.dtype,
        max_positions: int,
        *,
        coded: bool | None = None,
    ) -> None:
        """Raises `NativeUnavailableError` where the engine or its layout does not fit; `coded`: see `load_model`."""
        self._library = load_library()
        self._library.workspace_new.restype = ctypes.c_void_p
        if dtype not in FULL_KINDS:
            raise NativeUnavailableError(f"the compiled engine runs float32, bfloat16 and float16, not {dtype}")
        if spec.head_dim % binding.LANES or spec.head_dim > 256 or spec.hidden_size % binding.LANES:
            raise NativeUnavailableError("the compiled engine needs widths in multiples of 16 and heads of at most 256")
        if spec.group_size > _MAX_GROUP:
            raise NativeUnavailableError(f"the compiled engine takes at most {_MAX_GROUP} query heads per KV head")
        self.weights = weights
        self._spec, self._cache_dtype = spec, arithmetic_dtype(dtype)
        self._packing = Packing(
            spec,
            weights,
            dtype,
            coded=coded if self._library.reads_codes() else False,
            at_once=bool(self._library.reads_codes_at_once()),
        )
        self.full_bytes = self._packing.full_bytes
        self._model, self._model_tensors = model_struct(spec, weights, dtype, max_positions)
        self._threads = torch.get_num_threads()
        self._workspace = ctypes.c_void_p(self._library.workspace_new(self._threads))
        self._logits = torch.empty((0, self._padded_vocab))
        self._logits_by_rows: dict[int, Tensor] = {}
        self._lock = threading.Lock()  # the workspace serves one call at a time

    def __del__(self) -> None:
        if getattr(self, "_workspace", None):
            self._library.workspace_free(self._workspace)

    def new_cache(self, capacity: int) -> NativeCache:
        return NativeCache(self._spec, capacity, self._cache_dtype)

    def compile(self, policy: DraftPolicy, own: DraftWeights | None = None) -> DraftPlan:
        return self._packing.compile(policy, own)

    def forward(
        self,
        plan: DraftPlan,
        cache: KVCache,
        rows: Rows,
        *,
        with_logits: bool = True,
        taps: Tensor | None = None,
        routes: NativeRoutes | None = None,
    ) -> Tensor | None:
        logits = torch.empty((len(rows), self._padded_vocab)) if with_logits else None
        self._forward(plan, cache, rows, logits, taps, None, 0, 2 * self._spec.num_blocks, routes=routes)
        return None if logits is None else logits[:, : self._spec.vocab_size]

    def run_sub_layers(
        self, plan: DraftPlan, cache: KVCache, rows: Rows, stream: Tensor, first: int, last: int
    ) -> Tensor:
        result = stream.to(torch.float32, copy=True).contiguous()
        self._forward(plan, cache, rows, None, None, result, first, last)
        return result

    def write_keys(self, plan: DraftPlan, cache: KVCache, rows: Rows, stream: Tensor, block: int) -> None:
        passing = stream.to(torch.float32, copy=True).contiguous()
        self._forward(plan, cache, rows, None, None, passing, 2 * block, 2 * block + 1, keys_only=True)

    def embed(self, plan: DraftPlan, cache: KVCache, rows: Rows) -> Tensor:
        taps = torch.empty((1, len(rows), self._spec.hidden_size))
        self._forward(plan, cache, rows, None, taps, None, 0, 0)
        return taps[0]

    def logits(self, plan: DraftPlan, cache: KVCache, rows: Rows, stream: Tensor) -> Tensor:
        logits = torch.empty((len(rows), self._padded_vocab))
        self._forward(plan, cache, rows, logits, None, stream.to(torch.float32, copy=True).contiguous(), 0, 0)
        return logits[:, : self._spec.vocab_size]

    def _forward(
        self,
        plan: DraftPlan,
        cache: KVCache,
        rows: Rows,
        logits: Tensor | None,
        taps: Tensor | None,
        stream: Tensor | None,
        first: int,
        last: int,
        keys_only: bool = False,
        routes: NativeRoutes | None = None,
    ) -> None:
        assert isinstance(cache, NativeCache)
        payload: Payload = plan.payload
        struct, buffer = binding.rows_struct(rows)
        with self._lock:
            status = self._library.forward(
                ctypes.byref(self._model),
                ctypes.byref(payload.struct),
                None if routes is None else routes.over(cache, rows),
                ctypes.byref(cache.struct),
                ctypes.byref(struct),
                self._workspace,
                payload.width,
                _longest(rows),
                *(ctypes.c_void_p(binding.pointer(tensor)) for tensor in (logits, taps, stream)),
                first,
                last,
                keys_only,
            )
        del buffer
        _check(status)

    def review(
        self,
        plan: DraftPlan,
        cache: KVCache,
        rows: Rows,
        top: int,
        noise: ChoiceNoise | None,
        depths: Sequence[int],
        routes: NativeRoutes | None = None,
    ) -> list[Candidates]:
        tokens, probs = (ctypes.c_int32 * (len(rows) * top))(), (ctypes.c_float * (len(rows) * top))()
        self._review(plan, cache, rows, top, noise, depths, tokens, probs, routes)
        return binding.candidates(tokens, probs, len(rows), top)

    def choose(
        self, plan: DraftPlan, cache: KVCache, rows: Rows, noise: ChoiceNoise | None, depths: Sequence[int]
    ) -> tuple[list[int], Tensor]:
        tokens = (ctypes.c_int32 * len(rows))()
        self._review(plan, cache, rows, 1, noise, depths, tokens)
        return tokens[:], self._logits_of(len(rows))

    def _review(
        self,
        plan: DraftPlan,
        cache: KVCache,
        rows: Rows,
        top: int,
        noise: ChoiceNoise | None,
        depths: Sequence[int],
        tokens: ctypes.Array[ctypes.c_int32],
        probs: ctypes.Array[ctypes.c_float] | None = None,
        routes: NativeRoutes | None = None,
    ) -> None:
        assert isinstance(cache, NativeCache)
        payload: Payload = plan.payload
        struct, buffer = binding.rows_struct(rows)
        n = len(rows)
        with self._lock:
            status = self._library.review(
                ctypes.byref(self._model),
                ctypes.byref(payload.struct),
                None if routes is None else routes.over(cache, rows),
                ctypes.byref(cache.struct),
                ctypes.byref(struct),
                self._workspace,
                payload.width,
                _longest(rows),
                ctypes.c_void_p(self._scratch_logits(n)),
                ctypes.byref(binding.choosing(top, noise)),
                None if noise is None else (ctypes.c_int32 * n)(*depths),
                tokens,
                probs,
            )
        del buffer
        _check(status)

    def draft_chain(
        self,
        plan: DraftPlan,
        cache: KVCache,
        fed: Sequence[int],
        offset: int,
        num_tokens: int,
        top: int,
        stop: ChainStop,
        noise: ChoiceNoise | None,
        routes: NativeRoutes | None = None,
    ) -> list[Candidates]:
        assert isinstance(cache, NativeCache)
        payload: Payload = plan.payload
        n = len(fed)
        tokens, probs = (ctypes.c_int32 * (num_tokens * top))(), (ctypes.c_float * (num_tokens * top))()
        stopping, owned = binding.stopping(stop)
        with self._lock:
            count = self._library.draft_chain(
                ctypes.byref(self._model),
                ctypes.byref(payload.struct),
                None if routes is None else routes.over_chain(cache, n, offset + n + num_tokens),
                ctypes.byref(cache.struct),
                self._workspace,
                payload.width,
                (ctypes.c_int32 * n)(*fed),
                n,
                cache.length + offset,
                num_tokens,
                ctypes.c_void_p(self._scratch_logits(n)),
                ctypes.byref(binding.choosing(top, noise)),
                ctypes.byref(stopping),
                (ctypes.c_int32 * (3 * n + 1))(),
                tokens,
                probs,
            )
        del owned
        _check(count)
        return binding.candidates(tokens, probs, count, top)

    @property
    def cycle_runner(self) -> NativeBackend:
        return self

    def run_cycles(
        self,
        target: DraftPlan,
        cache: KVCache,
        text: npt.NDArray[np.int32],
        draft: StandingDraft,
        bounds: CycleBounds,
        last_tokens: Sequence[int],
        noise: ChoiceNoise | None,
    ) -> list[Cycle]:
        assert isinstance(cache, NativeCache)
        payload, own = target.payload, None if draft.plan is None else draft.plan.payload
        drafting = native_cycles.drafting(draft.lookup, None if own is None else own.struct, draft.longest)
        stopping, owned = binding.stopping(replace(draft.stop, last_tokens=last_tokens))
        cycles = (native_cycles.CCycle * bounds.cycles)()
        with self._lock:
            count = self._library.run_cycles(
                ctypes.byref(self._model),
                ctypes.byref(payload.struct),
                ctypes.byref(drafting),
                ctypes.byref(cache.struct),
                self._workspace,
                payload.width if own is None else max(payload.width, own.width),
                ctypes.c_void_p(binding.address(text, np.int32)),
                cache.length + 1,
                ctypes.byref(native_cycles.CBounds(*bounds)),
                ctypes.c_void_p(self._scratch_logits(draft.most_drafted + 1)),
                ctypes.byref(binding.choosing(1, noise)),
                ctypes.byref(stopping),
                cycles,
            )
        del owned
        _check(count)
        return [
            Cycle(bool(cycle.looked_up), cycle.drafted, cycle.committed, cycle.draft_s, cycle.verify_s)
            for cycle in cycles[:count]
        ]

    def routed_passes(self, plan: DraftPlan, router: Router, passed_keys: str) -> NativePasses:
        routes = NativeRoutes(router, passed_keys == "projected", self._spec, self._threads)
        return NativePasses(self, plan, routes)

    def best_tokens(self, logits: Tensor, top: int) -> list[list[int]]:
        n = len(logits)
        tokens, scratch = (ctypes.c_int32 * (n * top))(), (ctypes.c_float * top)()
        self._library.choose_rows(
            ctypes.c_void_p(logits.data_ptr()), n, logits.stride(0), self._spec.vocab_size, top, tokens, scratch
        )
        return [tokens[i : i + top] for i in range(0, n * top, top)]

    def _scratch_logits(self, rows: int) -> int:
        """Address of room for the logits of `rows` rows that nobody outside the engine reads."""
        if self._logits.shape[0] < rows:
            self._logits = torch.empty((rows, self._padded_vocab))
            self._logits_by_rows.clear()
        return self._logits.data_ptr()

    def _logits_of(self, rows: int) -> Tensor:
        """The first rows of that room; views are kept, for making one takes some per cent of a short pass."""
        if rows not in self._logits_by_rows:
            self._logits_by_rows[rows] = self._logits[:rows, : self._spec.vocab_size]
        return self._logits_by_rows[rows]

    @property
    def _padded_vocab(self) -> int:
        return -(-self._spec.vocab_size // binding.LANES) * binding.LANES


def _longest(rows: Rows) -> int:
    """Slots from the first one that a row sees to its last one, at most."""
    if rows.is_chain:
        return rows.slots[-1] + 1
    ends = zip(rows.prefix_starts, rows.prefix_lengths, rows.paths, strict=True)
    return max(max(length, path[-1] + 1 - start) for start, length, path in ends)


def _check(status: int) -> None:
    if status < 0:
        raise AutodraftError("out of memory in the compiled engine; use a shorter context or a smaller --widen")
