"""`RuntimeEvaluator`: the evaluator over a real target on this device.

Knows nothing of searchers or studies. F0 is the latency table, block influence, sensitivity and narrowing; F1 is
teacher-forced agreement times the analytic formula with the table's times; F2 is paired decoding.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch

from autodraft.cascade import Cascade, Draft, RoutedDraft, SelfDraft
from autodraft.decoding import SamplingConfig
from autodraft.decoding.scheduled import ScheduledDrafter, num_classes
from autodraft.errors import PolicyError
from autodraft.evaluator import Evaluation, Rival, TrialFailed
from autodraft.measure.agreement import AgreementMeter
from autodraft.measure.chains import best_shape
from autodraft.measure.device import device_stamp
from autodraft.measure.latency import LatencyTable
from autodraft.measure.prompts import TokenPrompt
from autodraft.measure.speedup import Session, speedup_of_cascades
from autodraft.measure.statistics import is_worse
from autodraft.policies.features import PolicyFeatures
from autodraft.policy import DraftPolicy
from autodraft.profile_parts import DraftPrior, Priors, WeightsFile
from autodraft.runtime import LoadedModel, TransformerRuntime
from autodraft.search.calibration import Calibration, Calibrator
from autodraft.search.effort import FEWEST_FINAL_PROMPTS, Effort, affordable

_MOST_REPEATS = 5
_PILOT_TOKENS = 16
_UNKNOWN_ALPHA = 0.7


@dataclass(frozen=True)
class EvaluatorOptions:
    """How much is measured.

    Attributes:
        bits: bit-widths that drafts may use, where the device runs them faster than the target's own.
        max_draft_tokens: longest draft considered.
        calibration_tokens: positions for agreement.
        new_tokens_per_prompt: generated per prompt in F2.
        temperature: of F2; 0 is greedy. Predictions are of greedy decoding whatever it is.
        latency_s: seconds for the latency table.
        confidence: level of intervals.
        seed: of rotations and resampling.
    """

    bits: tuple[int, ...] = (16, 8, 4)
    max_draft_tokens: int = 8
    calibration_tokens: int = 512
    new_tokens_per_prompt: int = 64
    temperature: float = 0.0
    latency_s: float = 6.0
    confidence: float = 0.95
    seed: int = 0


class RuntimeEvaluator:
    """An `Evaluator` over a loaded model.

    Args:
        loaded: the target.
        calibration: prompts for F0 and F1.
        prompts: prompts for F2, in the order in which they are measured.
        options: how much is measured.
        on_step: told of progress while calibrating (done, total).
        final_prompts: prompts of the comparison that has the last word; best such as no choice was made by.
        routed: what is known of the routed drafts that cascades may have.

    Attributes:
        effort: prompts, tokens and repeats of a measurement; the final comparison takes its tokens too.
        sensitivity_s: seconds that calibration may spend on what single sub-layers lose; None is no limit.
        prediction_s: seconds that a prediction for a draft as slow as the target may take; None is no limit.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        calibration: Sequence[TokenPrompt],
        prompts: Sequence[TokenPrompt],
        options: EvaluatorOptions | None = None,
        on_step: Callable[[int, int], None] | None = None,
        final_prompts: Sequence[TokenPrompt] | None = None,
        routed: Mapping[RoutedDraft, DraftPrior] | None = None,
    ) -> None:
        self.loaded, self.options = loaded, options or EvaluatorOptions()
        self.prompts = list(prompts)
        self.final_prompts = self.prompts if final_prompts is None else list(final_prompts)
        self.effort = Effort(len(self.prompts), self.options.new_tokens_per_prompt)
        self.stamp = device_stamp(loaded.runtime.device, loaded.runtime.backend)
        self._texts = list(calibration)
        self._on_step = on_step
        self._routed = {_model_of(draft): prior for draft, prior in (routed or {}).items()}
        self._calibration: Calibration | None = None
        self._learnt: dict[Cascade, tuple[tuple[float, ...], ...]] = {}  # acceptance by class, of each draft
        self._acceptance: dict[tuple[str, int], tuple[float, ...]] = {}  # by kind of free draft and number of classes
        self._agreements: dict[tuple[DraftPolicy, WeightsFile | None], float] = {}
        self.sensitivity_s: float | None = None
        self.prediction_s: float | None = None
        self.last_session: Session | None = None

    @property
    def runtime(self) -> TransformerRuntime:
        return self.loaded.runtime

    @property
    def identity(self) -> Mapping[str, str]:
        texts = repr([prompt.tokens for prompt in (*self._texts, *self.prompts, *self.final_prompts)])
        planes = "-planes" if self.loaded.byte_planes else ""
        return {
            "model": f"{self.loaded.fingerprint['weights'][:16]}-x{self.loaded.widen}-{self.runtime.dtype}{planes}",
            "device": self.stamp.model_dump_json(),
            "prompts": hashlib.sha256(texts.encode()).hexdigest()[:16],
            "measuring settings": repr(self.options),
        }

    @property
    def features(self) -> PolicyFeatures:
        return self._calibrated.features

    @property
    def meter(self) -> AgreementMeter:
        return self._calibrated.meter

    @property
    def latency(self) -> LatencyTable:
        """Steps as they were timed."""
        return self._calibrated.latency

    @property
    def _calibrated(self) -> Calibration:
        assert self._calibration is not None, "calibrate first"
        return self._calibration

    def calibrate(self, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
        options = self.options
        calibrator = Calibrator(
            self.loaded,
            [prompt.tokens for prompt in self._texts],
            options.bits,
            options.calibration_tokens,
            options.latency_s,
            options.seed,
            self.sensitivity_s,
            self.prediction_s,
            self._on_step,
        )
        self._calibration = calibrator.measured() if state is None else calibrator.restored(state)
        return self._calibration.to_json()

    def predict(self, policy: DraftPolicy, weights: WeightsFile | None = None) -> Evaluation:
        started = time.perf_counter()
        agreement = _guarded(lambda: self.meter.measure(policy, weights=weights))
        self._agreements[policy, weights] = agreement.top1_agreement
        cost = self.features.cost(policy)
        shape = best_shape(agreement, cost, self.latency.verify_cost, self.options.max_draft_tokens)
        return Evaluation(
            "predicted",
            shape.speedup,
            shape.tokens_per_cycle,
            shape.drafted_per_cycle,
            cost,
            shape.verify_cost,
            extra_bytes=self.runtime.plan(policy, weights).extra_bytes,
            wall_s=time.perf_counter() - started,
            top1_agreement=agreement.top1_agreement,
            settings=(("num_draft_tokens", float(shape.num_draft_tokens)), ("stop_threshold", shape.stop_threshold)),
        )

    def affordable_effort(self, seconds: float) -> Effort:
        """The effort with which measuring one cascade takes about `seconds`, by the latency table."""
        return affordable(self.effort, seconds, self._prefill_s(self.prompts), self.latency.target_ms / 1000)

    def _prefill_s(self, prompts: Sequence[TokenPrompt]) -> list[float]:
        """Of each prompt, by the latency table."""
        step_s = self.latency.target_ms / 1000
        return [self.latency.verify_cost(len(prompt.tokens)) * step_s for prompt in prompts]

    def measure(self, cascade: Cascade, rival: Rival | None = None) -> Evaluation:
        started = time.perf_counter()
        prompts = self.prompts[: self.effort.num_prompts]
        contestants = {"candidate": cascade} if rival is None else {"candidate": cascade, "rival": rival.cascade}

        def is_lost(session: Session) -> bool:
            return rival is not None and is_worse(session.per_prompt("candidate"), session.per_prompt("rival"))

        session = _guarded(lambda: self._session(contestants, prompts, repeats=self.effort.repeats, on_prompt=is_lost))
        stopped = len(session.per_prompt("candidate")) < len(prompts)
        evaluation = self._evaluation(session, "candidate", cascade, time.perf_counter() - started, stopped)
        if rival is None:
            return evaluation
        advantage = session.compare_pair("candidate", "rival").speedup.value
        return replace(evaluation, standing=advantage * rival.standing)

    def compare(self, cascades: Mapping[str, Cascade], seconds: float) -> dict[str, Evaluation]:
        """All final prompts, repeated as often as the time allows; fewer prompts where not even once fits."""
        started = time.perf_counter()
        pilot_tokens = min(_PILOT_TOKENS, self.effort.new_tokens)
        pilot = self._session(cascades, self.final_prompts[:1], new_tokens=pilot_tokens)
        longer = self.effort.new_tokens / pilot_tokens
        decode_s = sum(run.decode_s for entries in pilot.runs.values() for run in entries[0].runs)
        per_prompt_s = longer * decode_s + fmean(self._prefill_s(self.final_prompts))
        num_prompts = int(seconds / max(per_prompt_s, 1e-9))
        repeats = min(max(num_prompts // len(self.final_prompts), 1), _MOST_REPEATS)
        prompts = self.final_prompts[: max(num_prompts, FEWEST_FINAL_PROMPTS)]
        session = _guarded(lambda: self._session(cascades, prompts, repeats=repeats))
        self.last_session = session
        wall_s = (time.perf_counter() - started) / max(len(cascades), 1)
        return {name: self._evaluation(session, name, cascade, wall_s, False) for name, cascade in cascades.items()}

    def _session(
        self,
        cascades: Mapping[str, Cascade],
        prompts: Sequence[TokenPrompt],
        *,
        new_tokens: int | None = None,
        repeats: int = 1,
        on_prompt: Callable[[Session], bool] | None = None,
    ) -> Session:
        options = self.options
        drafters = {
            name: ScheduledDrafter(self.runtime, cascade, self._priors(cascade))
            for name, cascade in cascades.items()
            if not cascade.is_autoregressive
        }
        session = speedup_of_cascades(
            self.runtime, cascades, prompts, drafters=drafters, max_new_tokens=new_tokens or self.effort.new_tokens,
            repeats=repeats, seed=options.seed, eos=self.loaded.generation_eos, confidence=options.confidence,
            on_prompt=on_prompt, sampling=SamplingConfig(temperature=options.temperature),
        )  # fmt: skip
        for name, drafter in drafters.items():
            self._learn(cascades[name], drafter.acceptance_by_class)
        return session

    def _learn(self, cascade: Cascade, acceptance_by_class: tuple[tuple[float, ...], ...]) -> None:
        """Remember what a cascade's scheduler has found out: of that cascade, and of the free drafts in any other."""
        self._learnt[cascade] = acceptance_by_class
        for draft, acceptance in zip(cascade.drafts, acceptance_by_class, strict=True):
            if acceptance:
                self._acceptance[draft.kind, len(acceptance)] = acceptance

    def _priors(self, cascade: Cascade) -> Priors:
        """What is known of a cascade's drafts before it decodes, and times of the table."""
        drafts = tuple(self.prior(draft) for draft in cascade.drafts)
        return Priors(drafts=drafts, verify_cost=self.latency.verify_costs)

    def prior(self, draft: Draft) -> DraftPrior:
        """What is known of a draft before it decodes: predicted agreement, cost by the table, memory it adds."""
        match draft:
            case SelfDraft():
                alpha = self._agreements.get((draft.policy, draft.weights), _UNKNOWN_ALPHA)
                extra_bytes = self.runtime.plan(draft.policy, draft.weights).extra_bytes
                return DraftPrior(alpha=alpha, cost=self.features.cost(draft.policy), extra_bytes=extra_bytes)
            case RoutedDraft():
                return self._routed[_model_of(draft)]
            case _:
                acceptance = self._acceptance.get((draft.kind, num_classes(draft)), ())
                return DraftPrior(alpha=0.0, cost=0.0, acceptance_by_class=acceptance)

    def _evaluation(
        self, session: Session, name: str, cascade: Cascade, wall_s: float, stopped_early: bool
    ) -> Evaluation:
        comparison, figures = session.compare(name), session.figures(name)
        return Evaluation(
            "measured",
            comparison.speedup.value,
            figures.tokens_per_cycle,
            figures.num_draft_tokens,
            figures.cost,
            figures.verify_cost,
            extra_bytes=sum(self.prior(draft).extra_bytes for draft in cascade.models),
            wall_s=wall_s,
            alpha=figures.alpha,
            acceptance_per_draft=figures.acceptance_per_draft,
            acceptance_by_class=self._learnt.get(cascade, ()),
            ci_low=comparison.speedup.low,
            ci_high=comparison.speedup.high,
            per_prompt=tuple(session.per_prompt(name)),
            stopped_early=stopped_early,
        )


def _model_of(draft: RoutedDraft) -> RoutedDraft:
    """The same for all drafts that are one model, however long their chains."""
    return draft.model_copy(update={"num_draft_tokens": 1, "stop_threshold": 0.0})


def _guarded(evaluate: Callable[[], Any]) -> Any:
    """Run an evaluation; what a single candidate may suffer becomes `TrialFailed`."""
    try:
        return evaluate()
    except (torch.OutOfMemoryError, MemoryError) as error:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise TrialFailed(f"out of memory: {str(error).splitlines()[0] if str(error) else 'no details'}") from error
    except PolicyError as error:
        raise TrialFailed(f"does not fit: {error}") from error
