"""What `run_bench` finds: values, from the figures of one method on one task to the whole report.

Knows nothing of measuring. Everything in it becomes the JSON document from which tables and plots are made.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from autodraft.measure.cycles import TimeShares

OVERALL = "overall"


@dataclass(frozen=True)
class BenchRow:
    """One method on one task (or overall); None where a method does not say, or where there is nothing to say.

    Attributes:
        speedup, ci_low, ci_high: ratio of total decoding times; a single prompt gives no upper bound.
        ratio_of_means: Spec-Bench's figure (see `Session.ratio_of_means`).
        histogram: cycles by the tokens that they committed.
        alpha, alpha_per_draft: accepted over drafted tokens, of all drafts and of each.
        cost, verify_cost: c and v, in target steps.
        shares: where the time went.
        num_identical: prompts whose output is that of autoregressive decoding, token for token; None where a method
            samples with a generator of its own.
    """

    method: str
    task: str
    num_prompts: int
    tokens_per_s: float
    speedup: float
    ci_low: float
    ci_high: float | None
    ratio_of_means: float
    tokens_per_cycle: float | None
    histogram: dict[int, int] | None
    num_draft_tokens: float | None
    alpha: float | None
    alpha_per_draft: tuple[float, ...] | None
    cost: float | None
    verify_cost: float | None
    shares: TimeShares | None
    num_identical: int | None
    prefill_ms: float

    @property
    def is_identical(self) -> bool:
        return self.num_identical == self.num_prompts


@dataclass(frozen=True)
class Ratio:
    """The best of ours over one other method, paired, with its interval."""

    method: str
    kind: str
    ratio: float
    ci_low: float
    ci_high: float | None

    @property
    def is_apart(self) -> bool:
        return self.ci_low > 1.0


@dataclass(frozen=True)
class RunnerUp:
    """Whether the best of ours is apart from the others.

    Attributes:
        ours: the profile; without one, the fastest of ours.
        next: the fastest other lossless method of all.
        published: the fastest published competitor; None where none ran.
        ratios: `ours` over every other method but the lossy ones, closest first.
    """

    ours: str
    next: Ratio
    published: Ratio | None
    ratios: tuple[Ratio, ...]


@dataclass(frozen=True)
class BenchReport:
    """What `autodraft bench` prints.

    Attributes:
        model: what the user asked for, with its widening.
        device: stamp of the device.
        rows: one per method and task, `OVERALL` last.
        kinds: baseline, ours, published or lossy, by method.
        settings: what a method ran with.
        unavailable: method -> why it did not run.
        runner_up: None where there is nothing to compare.
        predicted_speedup: the formula's from the profile's own tau, c and v of this session; None without a profile.
    """

    model: str
    device: dict[str, Any]
    num_prompts: int
    new_tokens_per_prompt: int
    repeats: int
    temperature: float
    seed: int
    rows: tuple[BenchRow, ...]
    kinds: dict[str, str]
    settings: dict[str, dict[str, str]]
    unavailable: dict[str, str]
    runner_up: RunnerUp | None
    predicted_speedup: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def row(self, method: str, task: str = OVERALL) -> BenchRow:
        return next(row for row in self.rows if (row.method, row.task) == (method, task))
