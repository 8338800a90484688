"""What a search leaves behind: the profile, the table of trials, and search.json.

Knows nothing of searching or measuring. The profile is written in one step whenever there is a better candidate,
so that an interrupted search leaves a valid one.
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autodraft.cascade import AUTOREGRESSIVE, Cascade, Draft
from autodraft.measure.speedup import Comparison, Session
from autodraft.profile import (
    Baseline,
    DeviceStamp,
    DraftPrior,
    DraftProfile,
    Figures,
    Interval,
    Measurement,
    Prediction,
    Priors,
    Provenance,
    TargetStamp,
    TaskFigures,
    write_atomically,
)
from autodraft.search.conclude import Conclusion
from autodraft.search.loop import Best
from autodraft.search.study import SearchStudy

PROFILE_NAME, TRIALS_NAME, SEARCH_NAME = "profile.json", "trials.csv", "search.json"
_SMALLEST = 1e-9


@dataclass(frozen=True)
class ProfileMaker:
    """Everything of a profile that does not depend on the candidate."""

    target: TargetStamp
    device: DeviceStamp
    study: str
    storage: str
    searcher: str
    seed: int
    confidence: float
    verify_cost: Mapping[int, float]
    prior_of: Callable[[Draft], DraftPrior]

    def make(
        self,
        best: Best,
        *,
        trial: int | None = None,
        conclusion: Cascade | None = None,
        measurement: Measurement | None = None,
        baselines: Sequence[Baseline] = (),
    ) -> DraftProfile:
        """A profile of a candidate; `conclusion` is what to decode with where that is not the candidate itself."""
        cascade = best.cascade if conclusion is None else conclusion
        evaluation = best.evaluation
        return DraftProfile(
            conclusion="autoregressive" if cascade.is_autoregressive else "speculate",
            target=self.target,
            device=self.device,
            cascade=cascade,
            rejected=best.cascade if cascade.is_autoregressive and best.cascade.drafts else None,
            priors=Priors(
                drafts=tuple(self._prior(best, index) for index in range(len(best.cascade.drafts))),
                verify_cost=dict(self.verify_cost),
                tokens_per_cycle=max(evaluation.tokens_per_cycle, 1.0),
                rate=evaluation.speedup if evaluation.fidelity == "measured" else None,
            ),
            measurement=measurement,
            predicted=Prediction(
                speedup=evaluation.predicted_speedup, tokens_per_cycle=max(evaluation.tokens_per_cycle, 1.0)
            ),
            baselines=tuple(baselines),
            provenance=self.provenance(trial),
        )

    def _prior(self, best: Best, index: int) -> DraftPrior:
        """Measured acceptance (until there is one, teacher-forced agreement stands in); the rest as it was known."""
        draft, evaluation = best.cascade.drafts[index], best.evaluation
        alphas = evaluation.acceptance_per_draft
        alpha = alphas[index] if index < len(alphas) else evaluation.top1_agreement or 0.0
        known: dict[str, Any] = {"alpha": alpha}
        if any(evaluation.acceptance_by_class[index : index + 1]):
            known["acceptance_by_class"] = evaluation.acceptance_by_class[index]
        return self.prior_of(draft).model_copy(update=known)

    def nothing_found(self) -> DraftProfile:
        """The profile of a search in which no candidate could run at all."""
        return DraftProfile(
            conclusion="autoregressive", target=self.target, device=self.device, cascade=AUTOREGRESSIVE,
            provenance=self.provenance(None),
        )  # fmt: skip

    def provenance(self, trial: int | None) -> Provenance:
        return Provenance(
            study=self.study, storage=self.storage, trial=trial, searcher=self.searcher, seed=self.seed,
            command=" ".join(sys.argv), created=datetime.now(UTC), versions=self.device.versions,
        )  # fmt: skip


def interval(value: float, low: float, high: float, confidence: float) -> Interval:
    """A profile's interval; that of a single prompt is unbounded from above."""
    upper = max(high, value) if math.isfinite(high) else None
    return Interval(median=value, ci_low=max(min(low, value), _SMALLEST), ci_high=upper, confidence=confidence)


def figures(comparison: Comparison, tokens_per_cycle: float, confidence: float) -> dict[str, Any]:
    """The fields of `Figures` from a paired comparison."""
    speedup = comparison.speedup
    return Figures(
        speedup=interval(speedup.value, speedup.low, speedup.high, confidence),
        tokens_per_s=comparison.tokens_per_s,
        baseline_tokens_per_s=comparison.baseline_tokens_per_s,
        tokens_per_cycle=max(tokens_per_cycle, 1.0),
        num_prompts=comparison.num_prompts,
    ).model_dump()


def measurement_of(
    session: Session, name: str, new_tokens: int, confidence: float, *, temperature: float = 0.0
) -> Measurement:
    """A contestant of a session, overall and per task."""

    def of(category: str | None) -> dict[str, Any]:
        tau = session.figures(name, category).tokens_per_cycle
        return figures(session.compare(name, category), tau, confidence)

    tasks = tuple(TaskFigures(task=category, **of(category)) for category in session.categories)
    overall = of(None)
    return Measurement(new_tokens_per_prompt=new_tokens, temperature=temperature, tasks=tasks, **overall)


def baselines_of(
    session: Session, names: Sequence[str], confidence: float, settings: Mapping[str, dict[str, str]] | None = None
) -> list[Baseline]:
    """Contestants of a session as baselines of a profile."""
    found = []
    for name in names:
        comparison = session.compare(name)
        speedup = comparison.speedup
        found.append(
            Baseline(
                name=name,
                tokens_per_s=comparison.tokens_per_s,
                speedup=interval(speedup.value, speedup.low, speedup.high, confidence),
                settings=(settings or {}).get(name, {}),
            )
        )
    return found


def write_trials(study: SearchStudy, folder: Path) -> None:
    """trials.csv: one line per trial, its attributes and parameters in columns."""
    trials = study.study.get_trials(deepcopy=False)
    hidden = {"result", "cascade_json"}
    attributes = sorted({name for trial in trials for name in trial.user_attrs} - hidden)
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["number", "state", *attributes])
    for trial in trials:
        writer.writerow([trial.number, trial.state.name, *(trial.user_attrs.get(name, "") for name in attributes)])
    write_atomically(folder / TRIALS_NAME, buffer.getvalue())


def write_search(folder: Path, conclusion: Conclusion, study: SearchStudy, extra: Mapping[str, Any]) -> None:
    """search.json: how the search ended, every finalist, and what else the caller knows."""
    document = {
        "conclusion": "autoregressive" if conclusion.cascade.is_autoregressive else "speculate",
        "num_evaluations": study.num_evaluations,
        "finalists": {
            name: {"cascade": best.cascade.model_dump(mode="json"), **best.evaluation.to_json()}
            for name, best in conclusion.finalists.items()
        },
        **extra,
    }
    write_atomically(folder / SEARCH_NAME, json.dumps(document, indent=2) + "\n")
