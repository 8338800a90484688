"""How long steps of a routed draft take. Unlike those of a policy they depend on the text, so they are timed on text.

Knows nothing of acceptance. Routed steps and the target's are interleaved, as in a `LatencyTable`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from autodraft.measure.latency import QUERY_TOKENS, StepKey, interleaved
from autodraft.measure.statistics import spread
from autodraft.policy import FULL_BITS
from autodraft.runtime import KVCache, RoutedPlan, Rows, TransformerRuntime

_CHAIN = 4
_TARGET: StepKey = ("all", FULL_BITS, 1)


def measure_routed_costs(
    runtime: TransformerRuntime,
    plan: RoutedPlan,
    texts: Sequence[Sequence[int]],
    *,
    seconds: float = 4.0,
    most_repeats: int = 40,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """Number of query tokens -> draft forward over them, over the target's step over one token.

    One token is a step of a drafted chain; more are a review. `texts` are token ids, each longer than the widest step.
    """
    widest = max(QUERY_TOKENS)
    places = [_prefilled(runtime, text[: len(text) - widest]) for text in texts]
    ends = [text[len(text) - widest :] for text in texts]

    def target() -> None:
        for cache, end in zip(places, ends, strict=True):
            for _ in range(_CHAIN):
                runtime.forward(runtime.target, cache, Rows.chain(end[:1], cache.length)).argmax(dim=-1).tolist()

    def draft(rows: int) -> None:
        for cache, end in zip(places, ends, strict=True):
            if rows == 1:
                runtime.draft_chain(plan, cache, end[:1], _CHAIN)
            else:
                runtime.review(plan, cache, Rows.chain(end[:rows], cache.length))

    steps: dict[StepKey, Callable[[], None]] = {_TARGET: target}
    steps |= {("routed", FULL_BITS, rows): lambda rows=rows: draft(rows) for rows in QUERY_TOKENS}  # type: ignore[misc]
    with torch.inference_mode():
        samples = interleaved(steps, seconds=seconds, most_repeats=most_repeats, seed=seed, clock=clock)
    per_step = {key: spread(times).low_ms / (_CHAIN if key[2] == 1 else 1) for key, times in samples.items()}
    return {key[2]: step / per_step[_TARGET] for key, step in per_step.items() if key != _TARGET}


def _prefilled(runtime: TransformerRuntime, tokens: Sequence[int]) -> KVCache:
    cache = runtime.new_cache(len(tokens) + max(QUERY_TOKENS))
    runtime.prefill(cache, tokens)
    return cache
