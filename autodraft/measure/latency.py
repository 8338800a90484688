"""`LatencyTable`: how long steps take on this device, taken apart into sub-layers.

Knows nothing of acceptance. A forward is one fused call per plan, so sub-layers are timed by differences: the
whole step against the same step with every attention (or MLP) dropped, divided by the number of blocks. What
remains without any sub-layer is the base: embedding, head and overhead, one figure per precision of the head.
Repetitions are interleaved over all plans, so that drift hits all of them alike. Medians and interquartile ranges are
kept for the record; the arithmetic uses lower quartiles, because differences of medians drown where other processes
share the cores, and no part is ever charged less than a floor, or a search would find the noise.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from autodraft.decoding.step_times import CostPrior
from autodraft.measure.statistics import Spread, spread
from autodraft.policy import FULL_BITS, SHARE_UNITS, SUB_LAYER_KINDS, ChannelShares, DraftPolicy, SubLayerKind
from autodraft.runtime import DraftPlan, KVCache, Rows, TransformerRuntime

QUERY_TOKENS = (1, 2, 4, 8, 16, 32)
_LEAST_SUB_LAYER = 0.1
"""Floor of a sub-layer, over an even split of the target's step at the same share of bits."""
_CONTEXT = 192
_IN_A_ROW = 3

StepKey = tuple[str, int, int]
"""(what is in the step: "all", "attention" or "mlp" alone, "head" without any sub-layer; bits; query tokens)."""


@dataclass(frozen=True)
class LatencyTable:
    """Measured times in milliseconds.

    Attributes:
        num_blocks: blocks of the target.
        steps: (content, bits, query tokens) -> spread of whole steps.
    """

    num_blocks: int
    steps: Mapping[StepKey, Spread]

    def step_ms(self, content: str, bits: int, query_tokens: int = 1) -> float:
        return self.steps[content, bits, query_tokens].low_ms

    @property
    def target_ms(self) -> float:
        """The target's step over one token."""
        return self.step_ms("all", FULL_BITS)

    @property
    def bits(self) -> tuple[int, ...]:
        """Bit-widths in the table, most precise first."""
        return tuple(sorted({bits for content, bits, _ in self.steps if content == "all"}, reverse=True))

    @property
    def useful_bits(self) -> tuple[int, ...]:
        """The target's own precision, and bit-widths whose step is faster than its here, most precise first."""
        return tuple(bits for bits in self.bits if bits == FULL_BITS or self.step_ms("all", bits) < self.target_ms)

    def sub_layer_ms(self, kind: SubLayerKind, bits: int, query_tokens: int = 1) -> float:
        """What one sub-layer adds to a step: the step minus the step with only the other kind.

        Where parts of a step fit into caches that a whole one does not fit into, these differences add up to more than
        there is; they are scaled so that the base and all sub-layers add up to the whole step that was measured.
        """
        whole = self.step_ms("all", bits, query_tokens)
        differences = {
            each: max(whole - self.step_ms(other, bits, query_tokens), 0.0)
            for each, other in zip(SUB_LAYER_KINDS, reversed(SUB_LAYER_KINDS), strict=True)
        }
        left = max(whole - self.base_ms(bits, query_tokens), 0.0)
        share = differences[kind] / max(sum(differences.values()), 1e-9)
        even = self.step_ms("all", FULL_BITS, query_tokens) / (2 * self.num_blocks)
        return max(share * left / self.num_blocks, _LEAST_SUB_LAYER * bits / FULL_BITS * even)

    def base_ms(self, head_bits: int, query_tokens: int = 1) -> float:
        """A step without sub-layers: embedding, head at `head_bits`, overhead."""
        return self.step_ms("head", head_bits, query_tokens)

    def predict_step_ms(self, policy: DraftPolicy) -> float:
        """Sum of the base and of all sub-layers, channel shares pro rata, over one token."""
        total = self.base_ms(policy.head_bits)
        for index, shares in enumerate(policy.sub_layers):
            kind = SUB_LAYER_KINDS[index % 2]
            for bits in self.bits:
                units = shares.units_at(bits)
                total += units / SHARE_UNITS * self.sub_layer_ms(kind, bits) if units else 0.0
        return total

    def cost(self, policy: DraftPolicy) -> float:
        """c: a draft step over a target step."""
        return self.predict_step_ms(policy) / self.target_ms

    def verify_cost(self, query_tokens: int) -> float:
        """v: a target forward over so many tokens, over one target step; in lines between and beyond measured ones."""
        points = {
            n: self.step_ms("all", FULL_BITS, n) / self.target_ms
            for content, bits, n in self.steps
            if content == "all" and bits == FULL_BITS
        }
        return CostPrior(1.0, points).at(query_tokens)

    @property
    def verify_costs(self) -> dict[int, float]:
        """v at `QUERY_TOKENS`: what decoders are told of the target's times."""
        return {n: self.verify_cost(n) for n in QUERY_TOKENS}

    def to_json(self) -> dict[str, Any]:
        return {
            "num_blocks": self.num_blocks,
            "steps": [
                {"content": content, "bits": bits, "query_tokens": n, **timing.__dict__}
                for (content, bits, n), timing in self.steps.items()
            ],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> LatencyTable:
        steps = {
            (entry["content"], entry["bits"], entry["query_tokens"]): Spread(
                entry["median_ms"], entry["iqr_ms"], entry["count"], entry["low_ms"]
            )
            for entry in document["steps"]
        }
        return cls(document["num_blocks"], steps)


def step_policy(num_blocks: int, content: str, bits: int) -> DraftPolicy:
    """Everything at `bits`, or only the sub-layers of one kind, or none."""
    indices = range(2 * num_blocks)
    dropped = {"all": indices[:0], "attention": indices[1::2], "mlp": indices[::2], "head": indices}[content]
    return DraftPolicy.uniform(num_blocks, bits).replace(dict.fromkeys(dropped, ChannelShares()))


def table_keys(bits: Sequence[int], query_tokens: Sequence[int] = QUERY_TOKENS) -> list[StepKey]:
    """What a table needs: all contents and bits over one token, and the target's parts over more."""
    contents = ("all", *SUB_LAYER_KINDS, "head")
    widths = [FULL_BITS, *(width for width in bits if width != FULL_BITS)]
    return [
        (content, width, n)
        for content in contents
        for width in widths
        for n in query_tokens
        if n == 1 or width == FULL_BITS
    ]


def measure_latency(
    runtime: TransformerRuntime,
    *,
    seconds: float = 6.0,
    most_repeats: int = 40,
    context: int = _CONTEXT,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> LatencyTable:
    """Time every step of the table, interleaved in random order, for about `seconds`."""
    num_blocks = runtime.spec.num_blocks
    context = min(context, runtime.max_length - max(QUERY_TOKENS))
    cache = runtime.new_cache(context + max(QUERY_TOKENS))
    generator = random.Random(seed)
    runtime.prefill(cache, [generator.randrange(runtime.spec.vocab_size) for _ in range(context)])
    keys = table_keys(runtime.available_bits)
    steps: dict[StepKey, Callable[[], None]] = {}
    for content, bits, n in keys:
        plan = runtime.plan(step_policy(num_blocks, content, bits))
        tokens = [generator.randrange(runtime.spec.vocab_size) for _ in range(n)]
        steps[content, bits, n] = partial(_run, runtime, plan, cache, tokens)
    samples = interleaved(steps, seconds=seconds, most_repeats=most_repeats, seed=seed, clock=clock)
    return LatencyTable(num_blocks, {key: spread(times) for key, times in samples.items()})


def interleaved(
    steps: Mapping[StepKey, Callable[[], None]],
    *,
    seconds: float,
    most_repeats: int,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[StepKey, list[float]]:
    """Milliseconds of every step, in rounds of random order after one warm-up round; at least three rounds.

    Steps over one token are run several times in a row, and all but the first count: in decoding they follow one
    another, whether a draft or the target takes them, and the caches hold what the last ones left.
    """
    order = list(steps)
    shuffler = random.Random(seed)
    samples: dict[StepKey, list[float]] = {key: [] for key in order}
    started = clock()
    for key in order:
        steps[key]()
    for repeat in range(most_repeats):
        if repeat >= 3 and clock() - started > seconds:
            break
        shuffler.shuffle(order)
        for key in order:
            in_a_row = _IN_A_ROW if key[2] == 1 else 1
            if in_a_row > 1:
                steps[key]()
            before = clock()
            for _ in range(in_a_row):
                steps[key]()
            samples[key].append((clock() - before) * 1e3 / in_a_row)
    return samples


@torch.inference_mode()
def _run(runtime: TransformerRuntime, plan: DraftPlan, cache: KVCache, tokens: Sequence[int]) -> None:
    """One step, to its end, and reading off tokens as decoding does: alone in a chain, several in a verification."""
    if len(tokens) == 1:
        runtime.draft_chain(plan, cache, tokens, 1)
    else:
        runtime.best_tokens(runtime.forward(plan, cache, Rows.chain(tokens, cache.length)), 1)
