"""What a generation was made of: one `Run`, and the figures of a cycle over many of them.

Knows nothing of prompts or of who is compared with whom. Times are wall-clock seconds in a `Run` and target steps in
`CycleFigures`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autodraft.measure.statistics import medians


@dataclass(frozen=True)
class Run:
    """One generation of one contestant: what came out, and how long it took.

    Contestants that do not say what their cycles were made of have no `cycles`.
    """

    tokens: tuple[int, ...]
    prefill_s: float
    decode_s: float
    cycles: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    draft_s: float = 0.0
    verify_s: float = 0.0
    scheduling_s: float = 0.0
    histogram: Mapping[int, int] = field(default_factory=dict)
    drafts: tuple[tuple[int, int, int], ...] = ()  # (drafted, accepted, reached) tokens of each draft of the cascade


@dataclass(frozen=True)
class TimeShares:
    """Where the decoding time went; adds up to 1.

    Attributes:
        draft: forward passes of drafts.
        verify: the target, and choosing among its logits.
        scheduling: deciding what to draft, looking up, learning from what was verified.
        rest: what none of them accounts for.
    """

    draft: float
    verify: float
    scheduling: float
    rest: float

    @classmethod
    def of(cls, runs: Sequence[Run]) -> TimeShares:
        total = max(sum(run.decode_s for run in runs), 1e-12)
        draft = sum(run.draft_s for run in runs) / total
        verify = sum(run.verify_s for run in runs) / total
        scheduling = sum(run.scheduling_s for run in runs) / total
        return cls(draft, verify, scheduling, 1.0 - draft - verify - scheduling)


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
        acceptance_per_draft: of each draft, accepted over reached tokens: those whose predecessors were all accepted.
        prefill_s: median seconds of prefill.
        shares: where the time went.
    """

    tokens_per_cycle: float
    histogram: dict[int, int]
    num_draft_tokens: float
    cost: float
    verify_cost: float
    overhead: float
    alpha: float
    alpha_per_draft: tuple[float, ...]
    acceptance_per_draft: tuple[float, ...]
    prefill_s: float
    shares: TimeShares

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
        counts = [
            [sum(each) for each in zip(*draft, strict=True)] for draft in zip(*(r.drafts for r in runs), strict=True)
        ]
        spent = sum(run.decode_s for run in runs) - draft_s - verify_s
        return cls(
            tokens_per_cycle=tokens / cycles if cycles else 1.0,
            histogram=dict(sorted(histogram.items())),
            num_draft_tokens=drafted / cycles if cycles else 0.0,
            cost=draft_s / drafted / step_s if drafted else 0.0,
            verify_cost=verify_s / cycles / step_s if cycles else 1.0,
            overhead=spent / cycles / step_s if cycles else 0.0,
            alpha=sum(run.accepted_tokens for run in runs) / drafted if drafted else 0.0,
            alpha_per_draft=tuple(accepted / max(drafted, 1) for drafted, accepted, _ in counts),
            acceptance_per_draft=tuple(accepted / max(reached, 1) for _, accepted, reached in counts),
            prefill_s=medians([[run.prefill_s for run in runs]])[0],
            shares=TimeShares.of(runs),
        )
