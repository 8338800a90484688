"""`SearchLoop`: the one ask/tell loop that all searchers share.

Knows nothing of which searcher it drives, of models or of files. It answers from the study what the study already
knows, evaluates and records the rest, keeps the best candidates, watches the clock and reports progress.

Resuming: searchers are deterministic, so a search that is run again asks the same questions; they cost nothing
until the first one that the study has no answer to. A stage that the clock had ended ends at the same trial again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autodraft.cascade import Cascade, SelfDraft
from autodraft.evaluator import Evaluation, Evaluator, Fidelity, Rival, TrialFailed, draft_of
from autodraft.policy import DraftPolicy
from autodraft.search.codec import cascade_digest
from autodraft.search.proposals import Proposal, Searcher
from autodraft.search.records import cascade_attributes, cascade_params, digest_of, proposal_attributes
from autodraft.search.study import SearchStudy

STAGES = (
    "calibrate", "refitted", "seeds", "explore", "mutate", "fit", "measure", "compose", "conclude", "baselines",
)  # fmt: skip
"""In the order in which they run; every trial belongs to one."""

_LEAST_TRIALS = {"refitted": 8, "seeds": 6, "explore": 3, "measure": 3}
"""Trials that a stage gets even when the time is up: without them there is nothing to conclude from.

Also in a study that went on without them: drafts that were refitted after a search join it.
"""

_MOST_REPEATS = 100
_PACE_WEIGHT = 0.3


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands: trial `trial` of at most `total` of this stage, and the best candidate so far."""

    stage: str
    trial: int
    total: int
    best: float | None = None
    best_fidelity: Fidelity | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class Best:
    """The best candidate so far; `key` names its evaluation in the study."""

    cascade: Cascade
    evaluation: Evaluation
    key: str


class Clock:
    """The wall-clock budget of a search, over all its runs."""

    def __init__(self, budget_s: float | None, spent_s: float = 0.0, started: float | None = None) -> None:
        self._started = (time.monotonic() if started is None else started) - spent_s
        self.budget_s = budget_s
        self._origin_s = 0.0

    def start_shares(self) -> None:
        """Shares of the budget are shares of what is left from now on."""
        self._origin_s = min(self.spent_s, self.budget_s or 0.0)

    @property
    def spent_s(self) -> float:
        return time.monotonic() - self._started

    @property
    def left_s(self) -> float | None:
        return None if self.budget_s is None else max(self.budget_s - self.spent_s, 0.0)

    def is_past(self, share: float) -> bool:
        """Whether this share of the time for the search is used up."""
        left = self.seconds_until(share)
        return left is not None and left <= 0

    def seconds_until(self, share: float) -> float | None:
        """Seconds until this share of the time is used up; None without a budget."""
        if self.budget_s is None:
            return None
        return self._origin_s + share * (self.budget_s - self._origin_s) - self.spent_s


class SearchLoop:
    """Evaluates, records and remembers; see the module's text.

    Args:
        study: the record.
        evaluator: calibrated.
        clock: the budget.
        max_extra_bytes: candidates that need more memory are recorded but never the best.
        max_draft_tokens: longest draft of a cascade made from a policy.
        on_progress: told of every step.
        on_best: told of every new best candidate.

    Attributes:
        predicted: policies on the target's own weights, by key.
        refitted: drafts on weights of their own, as the chains that are predicted to be best, by key.
        measured: cascades, by key.
    """

    def __init__(
        self,
        study: SearchStudy,
        evaluator: Evaluator,
        clock: Clock,
        *,
        max_extra_bytes: int | None = None,
        on_progress: Callable[[SearchProgress], None] | None = None,
        on_best: Callable[[Best], None] | None = None,
    ) -> None:
        self.study, self.evaluator, self.clock = study, evaluator, clock
        self.predicted: dict[str, tuple[DraftPolicy, Evaluation]] = {}
        self.refitted: dict[str, tuple[SelfDraft, Evaluation]] = {}
        self.measured: dict[str, tuple[Cascade, Evaluation]] = {}
        self.best: Best | None = None
        self._asked: set[str] = set()
        self._max_extra_bytes = max_extra_bytes
        self._on_progress, self._on_best = on_progress, on_best
        self._pace_s: float | None = None
        self.device_digest = digest_of(evaluator.identity.get("device", ""))

    def explore(self, stage: str, searcher: Searcher, *, most: int, until: float = 1.0) -> int:
        """Ask `searcher` for policies and predict them: at most `most` different ones, until a share of the budget."""
        try:
            return self._explore(stage, searcher, most, until)
        finally:
            searcher.close()

    def _explore(self, stage: str, searcher: Searcher, most: int, until: float) -> int:
        done = repeats = 0
        while done < most and repeats < _MOST_REPEATS:
            proposal = searcher.ask()
            if proposal is None:
                break
            key = proposal.key
            if key not in self.study and self.is_over(stage, done, until):
                break
            is_new = key not in self._asked
            self._asked.add(key)
            evaluation = self._answer(
                key,
                stage,
                lambda asked=proposal: self.evaluator.predict(asked.policy, asked.weights),  # type: ignore[misc]
                params=proposal.params,
                attributes=proposal_attributes(proposal),
            )
            searcher.tell(proposal, evaluation)
            repeats = 0 if is_new else repeats + 1
            done += is_new
            if is_new and evaluation is not None and self.fits(evaluation):
                self._keep(proposal, evaluation)
            self.report(stage, done, most, until)
        return done

    def _keep(self, proposal: Proposal, evaluation: Evaluation) -> None:
        draft = draft_of(proposal.policy, evaluation, weights=proposal.weights)
        if draft.weights is None:
            self.predicted[proposal.key] = (draft.policy, evaluation)
        else:
            self.refitted[proposal.key] = (draft, evaluation)
        if not draft.policy.is_full:
            self._consider(Best(Cascade(drafts=(draft,)), evaluation, proposal.key))

    def measure(
        self, stage: str, cascade: Cascade, incumbent: Best | None, *, done: int, total: int, until: float = 1.0
    ) -> Evaluation | None:
        """Measure a cascade beside `incumbent`, until it clearly loses to that; None: failed, or no time left."""
        key = f"measured/{cascade_digest(cascade)}"
        if key not in self.study and self.is_over(stage, done, until):
            return None
        rival = None if incumbent is None else Rival(incumbent.cascade, incumbent.evaluation.score)
        evaluation = self._answer(
            key,
            stage,
            lambda: self.evaluator.measure(cascade, rival),
            params=cascade_params(cascade),
            attributes=cascade_attributes(cascade),
        )
        if evaluation is not None and self.fits(evaluation):
            self.measured[key] = (cascade, evaluation)
            if not evaluation.stopped_early:
                self._consider(Best(cascade, evaluation, key))
        self.report(stage, done + 1, total, until)
        return evaluation

    def compare(self, cascades: Mapping[str, Cascade], seconds: float) -> dict[str, Best]:
        """Measure the finalists in one session; the result replaces every earlier figure."""
        keys = {name: f"final/{cascade_digest(cascade)}" for name, cascade in cascades.items()}
        if all(key in self.study for key in keys.values()):
            found = {name: self.study[key] for name, key in keys.items()}
        else:
            self._pace_s = None  # one session, which takes the time that there is
            self.report("conclude", 0, len(cascades))
            found = dict(self.evaluator.compare(cascades, seconds))
            for name, evaluation in found.items():
                if evaluation is not None and keys[name] not in self.study:
                    attributes = {"finalist": name, **self._common("conclude"), **cascade_attributes(cascades[name])}
                    params = cascade_params(cascades[name])
                    self.study.record(keys[name], attributes, params, evaluation, self._violations(evaluation))
        self.report("conclude", len(cascades), len(cascades))
        return {name: Best(cascades[name], result, keys[name]) for name, result in found.items() if result is not None}

    def fits(self, evaluation: Evaluation) -> bool:
        """Whether a candidate keeps to the memory limit."""
        return all(value <= 0 for value in self._violations(evaluation).values())

    def _violations(self, evaluation: Evaluation) -> dict[str, float]:
        if self._max_extra_bytes is None:
            return {}
        return {"extra_bytes": float(evaluation.extra_bytes - self._max_extra_bytes)}

    def is_over(self, stage: str, done: int, until: float) -> bool:
        """Whether a stage ends before a candidate that is not known yet: by the clock, or as it did before the kill."""
        if done < _LEAST_TRIALS.get(stage, 0):
            return False
        later = STAGES[STAGES.index(stage) + 1 :]
        if done >= self.study.recorded(stage) and any(self.study.recorded(name) for name in later):
            return True
        return self.clock.is_past(until)

    def _answer(
        self,
        key: str,
        stage: str,
        evaluate: Callable[[], Evaluation],
        *,
        params: Mapping[str, int],
        attributes: Mapping[str, Any],
    ) -> Evaluation | None:
        """The recorded evaluation of `key`, or a new one, recorded before anything else happens."""
        if key in self.study:
            return self.study[key]
        started = time.monotonic()
        try:
            evaluation = evaluate()
        except TrialFailed as error:
            self.study.record_failure(key, {**self._common(stage), **attributes}, params, str(error))
            return None
        self.study.record(key, {**self._common(stage), **attributes}, params, evaluation, self._violations(evaluation))
        seconds = time.monotonic() - started
        self._pace_s = seconds if self._pace_s is None else (1 - _PACE_WEIGHT) * self._pace_s + _PACE_WEIGHT * seconds
        return evaluation

    def _common(self, stage: str) -> dict[str, Any]:
        return {"stage": stage, "spent_s": self.clock.spent_s, "device_digest": self.device_digest}

    def _consider(self, candidate: Best) -> None:
        """A measured candidate beats every predicted one; else the faster one wins."""
        rank = (candidate.evaluation.fidelity == "measured", candidate.evaluation.score)
        if self.best is None or rank > (self.best.evaluation.fidelity == "measured", self.best.evaluation.score):
            self.best = candidate
            if self._on_best is not None:
                self._on_best(candidate)

    def report(self, stage: str, trial: int, total: int, until: float = 1.0) -> None:
        """Tell the listener where the search stands."""
        if self._on_progress is None:
            return
        best = self.best.evaluation if self.best else None
        self._on_progress(
            SearchProgress(
                stage,
                trial,
                total,
                best.speedup if best else None,
                best.fidelity if best else None,
                self._seconds_left(total - trial, until),
            )
        )

    def _seconds_left(self, trials_left: int, until: float) -> float | None:
        """Until the search ends: this stage at its pace or until its share is used up, then the shares that follow."""
        paced = None if self._pace_s is None else max(trials_left, 0) * self._pace_s
        stage_left, everything_left = self.clock.seconds_until(until), self.clock.left_s
        if stage_left is None or everything_left is None:
            return paced
        this_stage = max(stage_left if paced is None else min(stage_left, paced), 0.0)
        return this_stage + min(max(everything_left - stage_left, 0.0), everything_left)
