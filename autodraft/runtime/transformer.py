"""`TransformerRuntime`: the target's weights on a device and the forward pass of any policy over a shared cache.

Knows nothing of trees, sampling or text: it is given rows and gives logits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autodraft.errors import ContextLengthError
from autodraft.policy import FULL_BITS, DraftPolicy
from autodraft.profile_parts import WeightsFile
from autodraft.runtime.backend import Backend, KVCache, RoutedPasses
from autodraft.runtime.choosing import NEVER, Candidates, ChainStop, ChoiceNoise
from autodraft.runtime.cycles import Cycle, CycleBounds, StandingDraft
from autodraft.runtime.draft_weights import DraftWeights
from autodraft.runtime.plan import DraftPlan
from autodraft.runtime.routed_plan import RoutedPlan
from autodraft.runtime.router_file import read_router
from autodraft.runtime.routing import Router
from autodraft.runtime.rows import Rows
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.weights import TargetWeights

PREFILL_ROWS = 128
_MAX_PLANS = 64


class TransformerRuntime:
    """A target and all its drafts on one device.

    Args:
        spec: the target's architecture.
        backend: what packs weights and runs the forward pass; owned by this runtime from now on.
        dtype, device: of the target's weights.
        max_length: tokens that a cache has room for unless asked otherwise.
    """

    def __init__(
        self, spec: ModelSpec, backend: Backend, *, dtype: torch.dtype, device: torch.device, max_length: int
    ) -> None:
        self.spec = spec
        self.dtype = dtype
        self.device = device
        self.max_length = max_length
        self._backend = backend
        self._plans: OrderedDict[tuple[str, str], DraftPlan] = OrderedDict()
        self.target = self.plan(DraftPolicy.uniform(spec.num_blocks))

    @property
    def weights(self) -> TargetWeights:
        """The target's tensors."""
        return self._backend.weights

    @property
    def backend(self) -> str:
        """Name of the backend: "native" or "torch"."""
        return self._backend.name

    @property
    def available_bits(self) -> tuple[int, ...]:
        """Bit-widths (0 left out) whose speed on this backend is real, most precise first."""
        return self._backend.available_bits

    @property
    def full_bytes(self) -> int:
        """Bytes of a weight in the target's precision, as a step reads it."""
        return self._backend.full_bytes

    @property
    def runs_cycles(self) -> bool:
        """Whether the backend can `run_cycles`."""
        return self._backend.cycle_runner is not None

    @property
    def capture_s(self) -> float:
        """Seconds spent so far on graphs and the like, which are made once and then only run."""
        return self._backend.capture_s

    def clock(self) -> float:
        """Seconds, those of `capture_s` left out: what it times is what it would take again."""
        return perf_counter() - self._backend.capture_s

    def new_cache(self, capacity: int | None = None) -> KVCache:
        """An empty cache, by default for `max_length` tokens."""
        return self._backend.new_cache(capacity or self.max_length)

    def plan(self, policy: DraftPolicy, weights: WeightsFile | None = None) -> DraftPlan:
        """The policy compiled for this runtime, on weights of its own where a file of them is given (cached).

        Raises:
            PolicyError: it does not fit the model.
            ProfileError: the weights are missing, changed, or do not fit model and policy.
        """
        key = (policy.digest, "" if weights is None else weights.sha256)
        if key not in self._plans:
            policy.check(self.spec.num_blocks, self.spec.num_kv_heads)
            self._plans[key] = self._backend.compile(policy, self._read(policy, weights))
            while len(self._plans) > _MAX_PLANS:
                oldest = next(known for known, plan in self._plans.items() if not plan.is_target)
                del self._plans[oldest]
        self._plans.move_to_end(key)
        return self._plans[key]

    def compiled(self, policy: DraftPolicy, own: DraftWeights) -> DraftPlan:
        """The policy on matrices that may change again: compiled anew at every call.

        Raises:
            PolicyError, ProfileError: it does not fit the model, or the matrices lack what it keeps.
        """
        policy.check(self.spec.num_blocks, self.spec.num_kv_heads)
        own.check(policy, self.spec)
        return self._backend.compile(policy, own)

    def _read(self, policy: DraftPolicy, weights: WeightsFile | None) -> DraftWeights | None:
        if weights is None:
            return None
        own = DraftWeights.read(weights, self.weights)
        own.check(policy, self.spec)
        return own

    def routed_plan(
        self,
        router: WeightsFile,
        passed_keys: str = "masked",
        *,
        bits: int = FULL_BITS,
        weights: WeightsFile | None = None,
    ) -> RoutedPlan:
        """A router's file ready to draft through blocks at `bits`, for one decoder.

        Raises:
            ProfileError: router or weights are missing, changed or do not fit.
        """
        blocks = self.plan(DraftPolicy.uniform(self.spec.num_blocks, bits), weights)
        return RoutedPlan(self, read_router(router.verified_path(), self.spec), passed_keys, blocks)

    def routed_passes(self, router: Router, passed_keys: str, blocks: DraftPlan) -> RoutedPasses | None:
        """The backend's own passes of a router through `blocks`; None where it runs single sub-layers only."""
        return self._backend.routed_passes(blocks, router, passed_keys)

    def forward(self, plan: DraftPlan, cache: KVCache, rows: Rows) -> Tensor:
        """Logits of `rows` under `plan`, float32 [n, vocab]; writes their keys and values, commits nothing."""
        self._check_room(cache, rows)
        logits = self._backend.forward(plan, cache, rows)
        assert logits is not None
        return logits

    def draft_chain(
        self,
        plan: DraftPlan | RoutedPlan,
        cache: KVCache,
        fed: Sequence[int],
        num_tokens: int,
        *,
        offset: int = 0,
        top: int = 1,
        stop: ChainStop = NEVER,
        noise: ChoiceNoise | None = None,
    ) -> list[Candidates]:
        """Draft up to `num_tokens` tokens one after the other, each the best one after those before it.

        Args:
            plan: the draft.
            cache: keys and values; slots from `cache.length + offset` on are written.
            fed: tokens that the draft has not run yet, at least one; the first goes to slot `cache.length + offset`.
            num_tokens: longest chain.
            offset: uncommitted tokens before `fed` that this draft has run, in the slots from `cache.length` on.
            top: best tokens returned per position; the first of them is the one that the chain goes on with.
            stop: when it ends earlier.
            noise: for sampled drafts; its first row is for the first drafted token.
        """
        last = cache.length + offset + len(fed) + num_tokens - 2
        self._check_last(cache, last, last)
        if isinstance(plan, RoutedPlan):
            return plan.draft_chain(cache, fed, offset, num_tokens, top, stop, noise)
        return self._backend.draft_chain(plan, cache, fed, offset, num_tokens, top, stop, noise)

    def run_cycles(
        self,
        cache: KVCache,
        text: npt.NDArray[np.int32],
        draft: StandingDraft,
        bounds: CycleBounds,
        *,
        last_tokens: Sequence[int] = (),
        noise: ChoiceNoise | None = None,
    ) -> list[Cycle]:
        """Draft and verify in cycles one after the other, at least one; only where the backend `runs_cycles`.

        Commits nothing: the keys of what the cycles committed lie in the slots from `cache.length` on.

        Args:
            cache: keys and values of all tokens but the last.
            text: the text so far, `cache.length + 1` tokens, and room for `bounds.room` more; what the cycles commit is
                written there.
            draft: what they draft.
            bounds: how many there are.
            last_tokens: tokens after which there is none.
            noise: what tokens are chosen by, a row for each that may be committed; None: by logits alone.
        """
        runner, last = self._backend.cycle_runner, cache.length + bounds.room - 1
        assert runner is not None, "this backend runs no cycles"
        self._check_last(cache, last, last)
        return runner.run_cycles(self.target, cache, text, draft, bounds, last_tokens, noise)

    def review(
        self,
        plan: DraftPlan | RoutedPlan,
        cache: KVCache,
        rows: Rows,
        top: int = 1,
        noise: ChoiceNoise | None = None,
        depths: Sequence[int] = (),
    ) -> list[Candidates]:
        """The `top` best tokens after each row under `plan`; writes keys and values as `forward` does.

        With `noise`, `depths[i]` is the row of it that is added to row i.
        """
        self._check_room(cache, rows)
        if isinstance(plan, RoutedPlan):
            return plan.review(cache, rows, top, noise, depths)
        return self._backend.review(plan, cache, rows, top, noise, depths)

    def choose(
        self, cache: KVCache, rows: Rows, noise: ChoiceNoise | None = None, depths: Sequence[int] = ()
    ) -> tuple[list[int], Tensor]:
        """What the target chooses after each row, without filters: by `logits / T + noise`, or the largest logit.

        Writes keys and values as `forward` does. Returns the tokens and the logits, float32 [n, vocab], which hold
        until the runtime's next pass. `noise` and `depths` as in `review`.
        """
        self._check_room(cache, rows)
        return self._backend.choose(self.target, cache, rows, noise, depths)

    def best_tokens(self, logits: Tensor, top: int) -> list[list[int]]:
        """The `top` best tokens of each row of what `forward` returned. [n, vocab]"""
        return self._backend.best_tokens(logits, top)

    def run_sub_layers(
        self, plan: DraftPlan, cache: KVCache, rows: Rows, stream: Tensor, first: int, last: int
    ) -> Tensor:
        """Run sub-layers `first .. last - 1` (attention and MLP in turn) of `plan` on a residual stream of one's own.

        `stream` is float32 [n, hidden], one row for each of `rows` (whose tokens are ignored), and is left as it is;
        returned is the stream after those sub-layers. Keys and values go to the rows' slots, as in `forward`.
        """
        if not 0 <= first <= last <= 2 * self.spec.num_blocks:
            raise ValueError(f"sub-layers {first} to {last} of {2 * self.spec.num_blocks}")
        self._check_room(cache, rows)
        return self._backend.run_sub_layers(plan, cache, rows, stream, first, last)

    def write_keys(self, plan: DraftPlan, cache: KVCache, rows: Rows, stream: Tensor, block: int) -> None:
        """Write to the rows' slots the plan's keys and values of a block for streams that pass it by. [n, hidden]"""
        self._check_room(cache, rows)
        self._backend.write_keys(plan, cache, rows, stream, block)

    def embed(self, cache: KVCache, rows: Rows) -> Tensor:
        """The residual stream of `rows` before the first sub-layer, float32 [n, hidden]; writes nothing."""
        self._check_room(cache, rows)
        return self._backend.embed(self.target, cache, rows)

    def logits(self, plan: DraftPlan, cache: KVCache, rows: Rows, stream: Tensor) -> Tensor:
        """Final norm and output head of `plan` on a residual stream, float32 [n, hidden] -> [n, vocab]."""
        return self._backend.logits(plan, cache, rows, stream)

    def prefill(self, cache: KVCache, tokens: Sequence[int]) -> None:
        """Run the target over `tokens` after what is committed, and commit them."""
        for start in range(0, len(tokens), PREFILL_ROWS):
            rows = Rows.chain(tokens[start : start + PREFILL_ROWS], cache.length)
            self._check_room(cache, rows)
            self._backend.forward(self.target, cache, rows, with_logits=False)
            cache.commit(rows.slots)

    def hidden_states(self, cache: KVCache, rows: Rows) -> Tensor:
        """The target's residual stream before each sub-layer and after the last, [2 * blocks + 1, n, hidden]."""
        self._check_room(cache, rows)
        taps = torch.empty((2 * self.spec.num_blocks + 1, len(rows), self.spec.hidden_size), device=self.device)
        self._backend.forward(self.target, cache, rows, with_logits=False, taps=taps)
        return taps

    def _check_room(self, cache: KVCache, rows: Rows) -> None:
        self._check_last(cache, max(rows.slots), max(rows.positions))

    def _check_last(self, cache: KVCache, slot: int, position: int) -> None:
        if slot >= cache.capacity:
            raise ContextLengthError(
                f"the cache has room for {cache.capacity} tokens and {slot + 1} are needed;"
                " shorten the prompt or raise --max-length"
            )
        if position >= self.spec.max_positions:
            raise ContextLengthError(
                f"position {position + 1} is beyond the model's context of {self.spec.max_positions} tokens"
            )
