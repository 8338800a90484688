"""F2: what decoding really achieves, paired and interleaved with autoregressive decoding on the same prompts.

Knows nothing of search. Contestants are functions from a prompt to a `Run`; for every prompt all of them run in
random rotation, warm-up is thrown away, prefill is kept apart, each prompt's median over repeats counts, and the
ratio of total times carries a bootstrap interval over prompts. The output of every contestant is compared with that of
the baseline.
"""

from __future__ import annotations

import random
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from autodraft.cascade import AUTOREGRESSIVE, Cascade
from autodraft.decoding import GREEDY, CascadeDecoder, Drafter, PromptCache, SamplingConfig
from autodraft.measure.cycles import CycleFigures, Run, TimeShares
from autodraft.measure.prompts import TokenPrompt
from autodraft.measure.statistics import Interval, medians, paired_ratio
from autodraft.profile_parts import Priors
from autodraft.runtime import TransformerRuntime

__all__ = [
    "BASELINE",
    "Comparison",
    "Contestant",
    "CycleFigures",
    "PromptRuns",
    "Run",
    "Session",
    "TimeShares",
    "decoder_contestant",
    "measure_speedup",
    "prompt_seed",
    "speedup_of_cascades",
]

BASELINE = "autoregressive"
WARM_UP_TOKENS = 8


Contestant = Callable[[Sequence[int], int], Run]
"""Given prompt tokens and the number of new tokens, generates."""


def prompt_seed(prompt: Sequence[int], seed: int) -> int:
    """The seed of a prompt's sampling: the same for every contestant and every repetition."""
    return zlib.crc32(repr((seed, tuple(prompt))).encode())


def decoder_contestant(
    runtime: TransformerRuntime,
    cascade: Cascade,
    eos: Collection[int] = (),
    *,
    priors: Priors | None = None,
    drafter: Drafter | None = None,
    prompt_cache: PromptCache | None = None,
    sampling: SamplingConfig = GREEDY,
    seed: int = 0,
) -> Contestant:
    """A `CascadeDecoder` as a contestant; `seed` is that of `prompt_seed`, what else it is made of the decoder's."""
    decoder = CascadeDecoder(runtime, cascade, priors=priors, drafter=drafter, prompt_cache=prompt_cache)

    def run(prompt: Sequence[int], max_new_tokens: int) -> Run:
        generation = decoder.generate(
            prompt, max_new_tokens=max_new_tokens, eos=eos, sampling=sampling, seed=prompt_seed(prompt, seed)
        )
        stats = generation.stats
        return Run(
            tuple(generation.tokens), stats.prefill_s, stats.decode_s, stats.cycles, stats.drafted_tokens,
            stats.accepted_tokens, stats.draft_s, stats.verify_s, stats.scheduling_s,
            dict(stats.tokens_per_cycle_histogram),
            tuple((draft.drafted_tokens, draft.accepted_tokens, draft.reached_tokens) for draft in stats.drafts),
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

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of prefill and decoding together, medians over the repetitions: what Spec-Bench counts."""
        return len(self.tokens) / medians([[run.prefill_s + run.decode_s for run in self.runs]])[0]


@dataclass(frozen=True)
class Comparison:
    """One contestant against another, usually the baseline, over some prompts."""

    speedup: Interval
    tokens_per_s: float
    baseline_tokens_per_s: float
    num_prompts: int
    num_identical: int

    @property
    def identical(self) -> bool:
        """Whether every output was the baseline's."""
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
        """Ratio of total times to the baseline's with its interval, over all prompts or those of a category."""
        return self.compare_pair(name, BASELINE, category)

    def compare_pair(self, name: str, other: str, category: str | None = None) -> Comparison:
        """One contestant against any other, `other` in the place of the baseline."""
        pairs = self._pairs(name, other, category)
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
            sum(base.tokens == candidate.tokens for base, candidate in pairs),
        )

    def ratio_of_means(self, name: str, category: str | None = None) -> float:
        """Spec-Bench's speedup (arXiv 2401.07851): mean tokens/s of the prompts over the baseline's, prefill included.

        For comparing with what others publish: prompts that generate fast weigh more in it than in total time.
        """
        pairs = self._pairs(name, BASELINE, category)
        return sum(pair[1].tokens_per_s for pair in pairs) / sum(pair[0].tokens_per_s for pair in pairs)

    def _pairs(self, name: str, other: str, category: str | None) -> list[tuple[PromptRuns, PromptRuns]]:
        """(of `other`, of `name`) for each prompt of the category."""
        return [
            pair
            for pair in zip(self.runs[other], self.runs[name], strict=True)
            if category in (None, pair[0].prompt.category)
        ]

    def figures(self, name: str, category: str | None = None) -> CycleFigures:
        """tau, c, v and alpha of a contestant, from its own times and the baseline's step."""
        pairs = self._pairs(name, BASELINE, category)
        base, runs = ([run for pair in pairs for run in pair[side].runs] for side in (0, 1))
        return CycleFigures.of(runs, base)


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
    drafters: Mapping[str, Drafter] | None = None,
    max_new_tokens: int,
    repeats: int = 1,
    seed: int = 0,
    eos: Collection[int] = (),
    sampling: SamplingConfig = GREEDY,
    confidence: float = 0.95,
    on_prompt: Callable[[Session], bool] | None = None,
) -> Session:
    """Several cascades against one autoregressive baseline, all with the same way of choosing tokens.

    Every prompt is prefilled once for all of them, so times of prefill say nothing. `drafters`, by name, draft what the
    cascades of these names describe; without one a cascade begins without priors.
    """
    drafters, prompt_cache = drafters or {}, PromptCache(runtime)
    contestants = {
        name: decoder_contestant(
            runtime, cascade, eos,
            drafter=drafters.get(name), prompt_cache=prompt_cache, sampling=sampling, seed=seed,
        )
        for name, cascade in {**cascades, BASELINE: AUTOREGRESSIVE}.items()
    }  # fmt: skip
    return measure_speedup(
        contestants, prompts, max_new_tokens=max_new_tokens, repeats=repeats, seed=seed, confidence=confidence,
        on_prompt=on_prompt,
    )  # fmt: skip
