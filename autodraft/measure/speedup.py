"""F2: what decoding really achieves, paired and interleaved with autoregressive decoding on the same prompts.

Knows nothing of search. Contestants are functions from a prompt to a `Run`; for every prompt all of them run in
random rotation, warm-up is thrown away, prefill is kept apart, each prompt's median over repeats counts, and the
ratio of total times carries a bootstrap interval over prompts. Greedy output of every contestant is compared with
that of the baseline.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from autodraft.cascade import AUTOREGRESSIVE, Cascade
from autodraft.decoding import CascadeDecoder
from autodraft.measure.prompts import TokenPrompt
from autodraft.measure.statistics import Interval, medians, paired_ratio
from autodraft.runtime import TransformerRuntime

BASELINE = "autoregressive"
WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class Run:
    """One generation of one contestant: what came out, and how long it took."""

    tokens: tuple[int, ...]
    prefill_s: float
    decode_s: float
    cycles: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0
    histogram: Mapping[int, int] = field(default_factory=dict)
    drafts: tuple[tuple[int, int], ...] = ()  # (drafted, accepted) tokens of each draft of the cascade


Contestant = Callable[[Sequence[int], int], Run]
"""Given prompt tokens and the number of new tokens, generates greedily."""


def decoder_contestant(runtime: TransformerRuntime, cascade: Cascade, eos: Collection[int] = ()) -> Contestant:
    """A `CascadeDecoder` as a contestant."""
    decoder = CascadeDecoder(runtime, cascade)

    def run(prompt: Sequence[int], max_new_tokens: int) -> Run:
        generation = decoder.generate(prompt, max_new_tokens=max_new_tokens, eos=eos)
        stats = generation.stats
        return Run(
            tuple(generation.tokens), stats.prefill_s, stats.decode_s, stats.cycles, stats.drafted_tokens,
            stats.accepted_tokens, stats.draft_s, stats.verify_s, dict(stats.tokens_per_cycle_histogram),
            tuple((draft.drafted_tokens, draft.accepted_tokens) for draft in stats.drafts),
        )  # fmt: skip

    return run


@dataclass(frozen=True)
class PromptRuns:
    """All repetitions of one contestant on one prompt."""

    prompt: TokenPrompt
    runs: tuple[Run, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.runs[0].tokens

    @property
    def decode_s(self) -> float:
        """Median over the repetitions."""
        return medians([[run.decode_s for run in self.runs]])[0]


@dataclass(frozen=True)
class Comparison:
    """One contestant against the baseline over some prompts."""

    speedup: Interval
    tokens_per_s: float
    baseline_tokens_per_s: float
    num_prompts: int
    num_identical: int

    @property
    def identical(self) -> bool:
        """Whether every greedy output was the baseline's."""
        return self.num_identical == self.num_prompts


class Session:
    """The runs of several contestants on the same prompts; comparisons are made from it."""

    def __init__(self, confidence: float = 0.95, seed: int = 0) -> None:
        self.runs: dict[str, list[PromptRuns]] = defaultdict(list)
        self._confidence, self._seed = confidence, seed

    def add(self, prompt: TokenPrompt, runs: Mapping[str, Sequence[Run]]) -> None:
        """One finished prompt."""
        for name, repetitions in runs.items():
            self.runs[name].append(PromptRuns(prompt, tuple(repetitions)))

    @property
    def categories(self) -> list[str]:
        return sorted({entry.prompt.category for entry in self.runs[BASELINE]})

    def per_prompt(self, name: str) -> list[float]:
        """Paired speedup of each prompt (tokens per second over the baseline's)."""
        pairs = zip(self.runs[BASELINE], self.runs[name], strict=True)
        return [(len(other.tokens) / other.decode_s) / (len(base.tokens) / base.decode_s) for base, other in pairs]

    def compare(self, name: str, category: str | None = None) -> Comparison:
        """Ratio of total times with its interval, over all prompts or those of a category."""
        pairs = [
            (base, other)
            for base, other in zip(self.runs[BASELINE], self.runs[name], strict=True)
            if category is None or base.prompt.category == category
        ]
        times = [[pair[side].decode_s for pair in pairs] for side in (0, 1)]
        tokens = [[len(pair[side].tokens) for pair in pairs] for side in (0, 1)]
        speedup = paired_ratio(
            times[0], times[1], baseline_tokens=tokens[0], candidate_tokens=tokens[1],
            confidence=self._confidence, seed=self._seed,
        )  # fmt: skip
        return Comparison(
            speedup,
            sum(tokens[1]) / sum(times[1]),
            sum(tokens[0]) / sum(times[0]),
            len(pairs),
            sum(base.tokens == other.tokens for base, other in pairs),
        )

    def figures(self, name: str, category: str | None = None) -> CycleFigures:
        """tau, c, v and alpha of a contestant, from its own times and the baseline's step."""
        runs, base = (
            [run for entry in self.runs[side] if category in (None, entry.prompt.category) for run in entry.runs]
            for side in (name, BASELINE)
        )
        return CycleFigures.of(runs, base)


@dataclass(frozen=True)
class CycleFigures:
    """What a contestant's cycles were made of; times are in target steps.

    Attributes:
        tokens_per_cycle: committed tokens per target forward (tau).
        histogram: number of cycles by tokens committed.
        num_draft_tokens: mean drafted tokens per cycle.
        cost: time spent drafting per drafted token (c).
        verify_cost: time of a verify pass (v).
        overhead: what drafting and verifying do not account for, per cycle.
        alpha: accepted over drafted tokens.
        alpha_per_draft: the same for each draft of the cascade.
        prefill_s: median seconds of prefill.
    """

    tokens_per_cycle: float
    histogram: dict[int, int]
    num_draft_tokens: float
    cost: float
    verify_cost: float
    overhead: float
    alpha: float
    alpha_per_draft: tuple[float, ...]
    prefill_s: float

    @property
    def predicted_speedup(self) -> float:
        """tau / (n * c + v): to be compared with the measured speedup; the difference is overhead."""
        return self.tokens_per_cycle / (self.num_draft_tokens * self.cost + self.verify_cost)

    @classmethod
    def of(cls, runs: Sequence[Run], baseline: Sequence[Run]) -> CycleFigures:
        step_s = sum(run.decode_s for run in baseline) / max(sum(len(run.tokens) for run in baseline), 1)
        cycles, drafted = sum(run.cycles for run in runs), sum(run.drafted_tokens for run in runs)
        tokens = sum(len(run.tokens) for run in runs)
        draft_s, verify_s = sum(run.draft_s for run in runs), sum(run.verify_s for run in runs)
        histogram: Counter[int] = Counter()
        for run in runs:
            histogram.update(run.histogram)
        spent = sum(run.decode_s for run in runs) - draft_s - verify_s
        return cls(
            tokens_per_cycle=tokens / cycles if cycles else 1.0,
            histogram=dict(sorted(histogram.items())),
            num_draft_tokens=drafted / cycles if cycles else 0.0,
            cost=draft_s / drafted / step_s if drafted else 0.0,
            verify_cost=verify_s / cycles / step_s if cycles else 1.0,
            overhead=spent / cycles / step_s if cycles else 0.0,
            alpha=sum(run.accepted_tokens for run in runs) / drafted if drafted else 0.0,
            alpha_per_draft=_alpha_per_draft(runs),
            prefill_s=medians([[run.prefill_s for run in runs]])[0],
        )


def _alpha_per_draft(runs: Sequence[Run]) -> tuple[float, ...]:
    totals = [
        [sum(counts) for counts in zip(*draft, strict=True)]
        for draft in zip(*(run.drafts for run in runs), strict=True)
    ]
    return tuple(accepted / drafted if drafted else 0.0 for drafted, accepted in totals)


def measure_speedup(
    contestants: Mapping[str, Contestant],
    prompts: Iterable[TokenPrompt],
    *,
    max_new_tokens: int,
    repeats: int = 1,
    seed: int = 0,
    confidence: float = 0.95,
    on_prompt: Callable[[Session], bool] | None = None,
) -> Session:
    """Run all contestants (one of them named `BASELINE`) on every prompt.

    `on_prompt` is called after each prompt with the session so far; True ends it early.
    """
    if BASELINE not in contestants:
        raise ValueError(f"one contestant must be {BASELINE!r}")
    session = Session(confidence, seed)
    shuffler = random.Random(seed)
    warm = False
    for prompt in prompts:
        if not warm:
            for contestant in contestants.values():
                contestant(prompt.tokens, min(WARM_UP_TOKENS, max_new_tokens))
            warm = True
        runs: dict[str, list[Run]] = {name: [] for name in contestants}
        for _ in range(repeats):
            order = list(contestants)
            shuffler.shuffle(order)
            for name in order:
                runs[name].append(contestants[name](prompt.tokens, max_new_tokens))
        session.add(prompt, runs)
        if on_prompt is not None and on_prompt(session):
            break
    return session


def speedup_of_cascades(
    runtime: TransformerRuntime,
    cascades: Mapping[str, Cascade],
    prompts: Iterable[TokenPrompt],
    *,
    max_new_tokens: int,
    repeats: int = 1,
    seed: int = 0,
    eos: Collection[int] = (),
    confidence: float = 0.95,
    on_prompt: Callable[[Session], bool] | None = None,
) -> Session:
    """Several cascades against one autoregressive baseline."""
    contestants = {
        name: decoder_contestant(runtime, cascade, eos)
        for name, cascade in {**cascades, BASELINE: AUTOREGRESSIVE}.items()
    }
    return measure_speedup(
        contestants, prompts, max_new_tokens=max_new_tokens, repeats=repeats, seed=seed, confidence=confidence,
        on_prompt=on_prompt,
    )  # fmt: skip
