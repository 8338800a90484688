"""Wall time of a target's steps and of its drafts' chains, as decoding feels them: whole calls, from token to token.

Knows nothing of text or of devices: tokens are random, and a call ends when its tokens are on the host. What theory
makes of the times is a row of its own kind.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from autodraft.benchmarks.gpu_device import peak_bytes
from autodraft.benchmarks.gpu_models import draft_shortage
from autodraft.benchmarks.gpu_parts import Emit
from autodraft.measure.formulas import best_num_draft_tokens, tokens_per_cycle
from autodraft.measure.hf_pruned import spread_blocks
from autodraft.measure.latency import StepKey, interleaved
from autodraft.measure.statistics import spread
from autodraft.policy import FULL_BITS, ChannelShares, DraftPolicy
from autodraft.runtime import DraftPlan, KVCache, Rows, TransformerRuntime
from autodraft.runtime.torch_cache import TorchCache

CONTEXTS = (256, 1024, 4096, 32768)
ROWS = (1, 4, 8, 16)
NUM_DRAFT_TOKENS = 8
ROOM = 32
"""Slots behind the context that steps write to."""
_ALPHAS = (0.6, 0.7, 0.8, 0.9)
_TARGET = "target"
ALONE = "the target itself"
"""Drafts nothing: autoregressive decoding without the host between tokens, the ceiling of what drafts compete with."""


@dataclass(frozen=True)
class Repeats:
    """How often every step is timed: `most` times, or fewer (three at least) once `seconds` are over."""

    most: int = 25
    seconds: float = 15.0


def draft_policies(num_blocks: int) -> dict[str, DraftPolicy]:
    """What is timed as a chain; the draft that takes most memory last."""
    kept = spread_blocks(num_blocks, max(num_blocks // 2, 1))
    skipped = [2 * block + kind for block in range(num_blocks) if block not in kept for kind in (0, 1)]
    low, full = DraftPolicy.uniform(num_blocks, 4), DraftPolicy.uniform(num_blocks)
    return {
        ALONE: full,
        "all blocks, 4 bits": low,
        "half of the blocks, 4 bits": low.replace(dict.fromkeys(skipped, ChannelShares())),
        "half of the blocks, 16 bits": full.replace(dict.fromkeys(skipped, ChannelShares())),
        "all blocks, 8 bits": DraftPolicy.uniform(num_blocks, 8),
    }


def measure_steps(
    runtime: TransformerRuntime,
    emit: Emit,
    *,
    contexts: Sequence[int] = CONTEXTS,
    repeats: Repeats | None = None,
    predict: bool = False,
    seed: int = 0,
) -> None:
    """Rows for the target over 1, 4, 8 and 16 rows and for every draft, at each context that the model has room for.

    With `predict`, also what the closed form for a chain promises at the first context.
    """
    meter = _StepMeter(runtime, emit, fitting_contexts(contexts, runtime), repeats or Repeats(), seed)
    for number, context in enumerate(meter.contexts):
        measured = list(meter.measure(context))
        for row in measured:
            emit(row)
        if predict and number == 0:
            for row in predicted_rows(measured):
                emit(row)
    emit({"kind": "memory", "peak_bytes": peak_bytes(runtime.device), "capture_s": runtime.capture_s})


def fitting_contexts(contexts: Sequence[int], runtime: TransformerRuntime) -> list[int]:
    """The contexts, those that the model has no room for replaced by the longest that it has room for."""
    longest = min(runtime.max_length, runtime.spec.max_positions) - ROOM
    return sorted({min(context, longest) for context in contexts})


class _StepMeter:
    """Times the steps of one runtime on one cache, whose context grows."""

    def __init__(
        self, runtime: TransformerRuntime, emit: Emit, contexts: Sequence[int], repeats: Repeats, seed: int
    ) -> None:
        self.contexts = contexts
        self._runtime, self._emit, self._repeats = runtime, emit, repeats
        self._random = random.Random(seed)
        self._cache = runtime.new_cache(contexts[-1] + ROOM)
        self._drafts: dict[str, tuple[DraftPlan, float]] = {}
        for name, policy in draft_policies(runtime.spec.num_blocks).items():
            self._pack(name, policy)

    def _pack(self, name: str, policy: DraftPolicy) -> None:
        missing = sorted({policy.head_bits} - {FULL_BITS, *self._runtime.available_bits})
        reason = f"the {self._runtime.backend} backend has no fast {missing[0]} bits here" if missing else None
        reason = reason or draft_shortage(policy, self._runtime)
        if reason is not None:
            self._emit({"kind": "draft", "draft": name, "left_out": reason})
            return
        started = time.perf_counter()
        self._drafts[name] = self._runtime.plan(policy), time.perf_counter() - started

    def _tokens(self, count: int) -> list[int]:
        return [self._random.randrange(self._runtime.spec.vocab_size) for _ in range(count)]

    def measure(self, context: int) -> Iterator[dict[str, Any]]:
        """The rows of one context."""
        self._fill(context)
        calls: dict[StepKey, Callable[[], None]] = {
            (_TARGET, FULL_BITS, n): partial(_forward, self._runtime, self._cache, self._tokens(n)) for n in ROWS
        }
        for name, (plan, _) in self._drafts.items():
            key = name, plan.policy.head_bits, NUM_DRAFT_TOKENS
            calls[key] = partial(_draft, self._runtime, plan, self._cache, self._tokens(1))
        first_s = self._first_calls(calls, context)
        timed = {key: call for key, call in calls.items() if key in first_s}
        print(f"context {context}: timing {len(timed)} steps", file=sys.stderr)
        samples = interleaved(timed, seconds=self._repeats.seconds, most_repeats=self._repeats.most)
        base_ms = float(np.median(samples[_TARGET, FULL_BITS, 1]))
        for (name, _, count), times_ms in samples.items():
            common = {"context": context, "first_s": first_s[name, _, count], "count": len(times_ms)}
            if name == _TARGET:
                yield {"kind": "target", **common, **self._target_figures(count, times_ms, base_ms)}
            else:
                yield {"kind": "draft", "draft": name, **common, **self._draft_figures(name, times_ms, base_ms)}

    def _fill(self, context: int) -> None:
        """Bring the cache to a context: of random keys and values where they can be had without a pass over tokens."""
        if isinstance(self._cache, TorchCache):
            self._cache.keys.normal_()
            self._cache.values.normal_()
            self._cache.length = context
        else:
            self._runtime.prefill(self._cache, self._tokens(context - self._cache.length))

    def _first_calls(self, calls: Mapping[StepKey, Callable[[], None]], context: int) -> dict[StepKey, float]:
        """Seconds of each first call, compiling and capturing included; a draft's that fails becomes a row."""
        seconds: dict[StepKey, float] = {}
        for key, call in calls.items():
            print(f"context {context}: first call of {key[0]}, {key[2]} tokens", file=sys.stderr)
            started = time.perf_counter()
            try:
                call()
            except Exception as error:  # what a build or a device lacks shows in many ways
                if key[0] == _TARGET:
                    raise
                self._emit({"kind": "draft", "draft": key[0], "context": context, "left_out": first_line(error)})
                continue
            seconds[key] = time.perf_counter() - started
        return seconds

    def _target_figures(self, rows: int, times_ms: Sequence[float], base_ms: float) -> dict[str, Any]:
        step = quartiles(times_ms)
        weight_bytes = self._runtime.target.weight_bytes
        return {"rows": rows, **step, "verify_cost": step["median_ms"] / base_ms, "weight_bytes": weight_bytes}

    def _draft_figures(self, name: str, times_ms: Sequence[float], base_ms: float) -> dict[str, Any]:
        """Per drafted token."""
        plan, pack_s = self._drafts[name]
        token = quartiles([ms / NUM_DRAFT_TOKENS for ms in times_ms])
        return {
            **token,
            "num_draft_tokens": NUM_DRAFT_TOKENS,
            "cost": token["median_ms"] / base_ms,
            "weight_bytes": plan.weight_bytes,
            "extra_bytes": plan.extra_bytes,
            "pack_s": pack_s,
        }


@torch.inference_mode()
def _forward(runtime: TransformerRuntime, cache: KVCache, tokens: Sequence[int]) -> None:
    runtime.forward(runtime.target, cache, Rows.chain(tokens, cache.length)).argmax(dim=-1).tolist()


@torch.inference_mode()
def _draft(runtime: TransformerRuntime, plan: DraftPlan, cache: KVCache, tokens: Sequence[int]) -> None:
    runtime.draft_chain(plan, cache, tokens, NUM_DRAFT_TOKENS)


def quartiles(times_ms: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of some times."""
    found = spread(times_ms)
    return {"median_ms": found.median_ms, "low_ms": found.low_ms, "high_ms": found.low_ms + found.iqr_ms}


def predicted_rows(measured: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Expected speedup of a chain of each draft at its best length, for several acceptances; never measured.

    A verify pass has the price of the next measured number of rows, for backends pad to some; so chains are no longer
    than the largest allows.
    """
    verify = {row["rows"]: row["verify_cost"] for row in measured if row["kind"] == "target"}

    def verify_cost(rows: int) -> float:
        return float(verify[min(n for n in verify if n >= rows)])

    for row in measured:
        if row["kind"] != "draft" or row["draft"] == ALONE:
            continue
        for alpha in _ALPHAS:
            length, speedup = best_num_draft_tokens(
                partial(tokens_per_cycle, alpha), row["cost"], verify_cost, longest=max(verify) - 1
            )
            yield {
                "kind": "predicted",
                "context": row["context"],
                "draft": row["draft"],
                "alpha": alpha,
                "num_draft_tokens": length,
                "speedup": speedup,
            }


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
