"""What a backend has to provide, and the cache contract. Knows nothing of any implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from autodraft.policy import DraftPolicy
from autodraft.runtime.choosing import Candidates, ChainStop, ChoiceNoise
from autodraft.runtime.cycles import Cycle, CycleBounds, StandingDraft
from autodraft.runtime.draft_weights import DraftWeights
from autodraft.runtime.plan import DraftPlan
from autodraft.runtime.routing import Router
from autodraft.runtime.rows import Rows
from autodraft.runtime.weights import TargetWeights


class KVCache(Protocol):
    """Keys and values of one sequence, one static allocation shared by the target and all its drafts.

    Slots below `length` hold the target's verified keys and are written by nobody. Drafts and
    verification write the slots from `length` on; rollback costs nothing, it is not committing.
    """

    capacity: int
    length: int

    def commit(self, slots: Sequence[int]) -> None:
        """Make the keys in `slots` (ascending, all >= length) the next committed ones."""

    def truncate(self, length: int) -> None:
        """Forget everything after `length` committed tokens."""


class RoutedPasses(Protocol):
    """Passes along the routes of one router, for one decoder.

    They remember of the slots behind the committed ones which blocks' keys a draft has left there.
    """

    def logits(self, cache: KVCache, rows: Rows) -> Tensor:
        """Logits of `rows`, each after its own route, float32 [n, vocab]; writes their keys, commits nothing."""

    def review(
        self, cache: KVCache, rows: Rows, top: int, noise: ChoiceNoise | None, depths: Sequence[int]
    ) -> list[Candidates]:
        """See `TransformerRuntime.review`."""

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
        """See `TransformerRuntime.draft_chain`."""


class CycleRunner(Protocol):
    """Runs cycles of drafting and verification without the host."""

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
        """See `TransformerRuntime.run_cycles`."""


class Backend(Protocol):
    """Compiles policies and runs forward passes on one device; owned by one `TransformerRuntime`.

    `full_bytes` is what a weight in the target's precision takes.
    """

    name: str
    available_bits: tuple[int, ...]
    full_bytes: int
    weights: TargetWeights

    @property
    def capture_s(self) -> float:
        """Seconds spent so far on what is made once and then only run, such as graphs."""

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache with room for `capacity` tokens."""

    def compile(self, policy: DraftPolicy, own: DraftWeights | None = None) -> DraftPlan:
        """Pack what the policy needs, from `own` matrices where there are any; segments of earlier plans are reused."""

    def forward(
        self, plan: DraftPlan, cache: KVCache, rows: Rows, *, with_logits: bool = True, taps: Tensor | None = None
    ) -> Tensor | None:
        """Run the plan over `rows`, writing their keys and values; float32 logits [n, vocab] unless not wanted.

        `taps`, if given, receives the residual stream before each sub-layer and after the last:
        float32 [2 * blocks + 1, n, hidden].
        """

    def run_sub_layers(
        self, plan: DraftPlan, cache: KVCache, rows: Rows, stream: Tensor, first: int, last: int
    ) -> Tensor:
        """Sub-layers `first .. last - 1` on a residual stream of one's own, float32 [n, hidden] -> [n, hidden]."""

    def write_keys(self, plan: DraftPlan, cache: KVCache, rows: Rows, stream: Tensor, block: int) -> None:
        """Write the keys and values that a block's attention would make of `stream`, without attending."""

    def embed(self, plan: DraftPlan, cache: KVCache, rows: Rows) -> Tensor:
        """The residual stream before the first sub-layer, float32 [n, hidden]; writes nothing."""

    def logits(self, plan: DraftPlan, cache: KVCache, rows: Rows, stream: Tensor) -> Tensor:
        """Final norm and output head on a residual stream of one's own, float32 [n, hidden] -> [n, vocab]."""

    def review(
        self, plan: DraftPlan, cache: KVCache, rows: Rows, top: int, noise: ChoiceNoise | None, depths: Sequence[int]
    ) -> list[Candidates]:
        """A forward pass of which only the `top` best tokens after each row are wanted."""

    def choose(
        self, plan: DraftPlan, cache: KVCache, rows: Rows, noise: ChoiceNoise | None, depths: Sequence[int]
    ) -> tuple[list[int], Tensor]:
        """See `TransformerRuntime.choose`."""

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
    ) -> list[Candidates]:
        """Greedy chain (see `TransformerRuntime.draft_chain`), in as few host calls as the backend can."""

    def routed_passes(self, plan: DraftPlan, router: Router, passed_keys: str) -> RoutedPasses | None:
        """A router's passes in as few host calls as the backend can; None where it knows none but single sub-layers."""

    @property
    def cycle_runner(self) -> CycleRunner | None:
        """What runs cycles here; None where only single passes and chains are known."""

    def best_tokens(self, logits: Tensor, top: int) -> list[list[int]]:
        """The `top` best tokens of rows of logits that `forward` returned."""


def moves_of_commit(cache: KVCache, slots: Sequence[int]) -> list[tuple[int, int]]:
    """(to, from) of the slots that do not lie where they are wanted: next to each other behind what is committed.

    `ValueError` unless `slots` are ascending and beyond what is committed.
    """
    wanted = range(cache.length, cache.length + len(slots))
    if (
        list(slots) == list(wanted) and wanted.stop <= cache.capacity
    ):  # a chain: in each cycle, so without looking twice
        return []
    previous = cache.length - 1
    for slot in slots:
        if slot <= previous or slot >= cache.capacity:
            raise ValueError(f"cannot commit slots {list(slots)} after {cache.length} tokens of {cache.capacity}")
        previous = slot
    return [(to, slot) for to, slot in zip(wanted, slots, strict=True) if to != slot]
