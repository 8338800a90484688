"""`run_search`: a search job in, a draft profile out.

Knows nothing of how candidates are chosen: it puts a target behind an evaluator, a study behind the loop, and writes
what comes out. Running the same job on the same folder continues where it was stopped.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna

from autodraft.cascade import Cascade
from autodraft.configuration import SearchJob
from autodraft.decoding import SamplingConfig
from autodraft.fitting.fitter import DraftFitter
from autodraft.measure.device import target_stamp, versions
from autodraft.measure.hf import HFBaseline
from autodraft.measure.prompts import (
    Prompt,
    TokenPrompt,
    calibration_prompts,
    choose_prompts,
    encode_prompts,
    evaluation_prompts,
    read_prompts,
    search_prompts,
)
from autodraft.measure.speedup import BASELINE, decoder_contestant, measure_speedup
from autodraft.policies.choices import Budgets
from autodraft.policies.rollout import LearnedDecider
from autodraft.profile import Baseline, DraftProfile, Measurement
from autodraft.runtime import LoadedModel, load_model
from autodraft.search.agents.files import load_decider
from autodraft.search.codec import describe_draft
from autodraft.search.compose import ComposeOptions, predicted_drafts
from autodraft.search.conclude import Conclusion
from autodraft.search.effort import Effort
from autodraft.search.export import (
    PROFILE_NAME,
    ProfileMaker,
    baselines_of,
    measurement_of,
    write_search,
    write_trials,
)
from autodraft.search.loop import Clock, SearchLoop, SearchProgress
from autodraft.search.objectives import Objectives
from autodraft.search.pipeline import PipelineOptions, search_cascade
from autodraft.search.plans import SpaceOptions
from autodraft.search.refitted import load_refitted
from autodraft.search.routed import load_routed
from autodraft.search.runtime_evaluator import EvaluatorOptions, RuntimeEvaluator
from autodraft.search.study import SQLITE_NAME, SearchStudy, open_storage, redacted

ProgressListener = Callable[[SearchProgress], None]
_LONGEST_PROMPT = 384
_FINAL_PROMPTS = 8
"""The last comparison takes up to this many times the prompts of the others, as far as time allows."""
_MEASUREMENT_SHARE = 0.06
"""Of the time after calibration, for measuring one cascade: six to seven fit between exploring and concluding."""
_SENSITIVITY_SHARE = 0.2
"""Of the whole time at most, for what single sub-layers lose."""
_PREDICTION_SHARE = 0.008
"""Of the whole time at most, for predicting what a draft as slow as the target is worth."""
_HF_SHARE = 0.10
_HF_LEAST_PROMPTS = 2
_HF_LEAST_TOKENS = 16


def run_search(job: SearchJob, on_progress: ProgressListener | None = None) -> DraftProfile:
    """Search the fastest cascade for a model on this device, and export its profile.

    The output folder gets profile.json (at every improvement), trials.csv, search.json, config.yaml and the study.
    Ctrl-C leaves the best profile so far and is raised again.
    """
    started = time.monotonic()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = job.output_folder
    folder.mkdir(parents=True, exist_ok=True)
    job.save(folder)
    loaded = load_model(job.model, **job.loading)
    return RunningSearch(job, loaded, folder, started, on_progress).run()


class RunningSearch:
    """One run of a job over a loaded model: opens what it needs, searches, exports."""

    def __init__(
        self,
        job: SearchJob,
        loaded: LoadedModel,
        folder: Path,
        started: float,
        on_progress: ProgressListener | None = None,
    ) -> None:
        self.job, self.loaded, self.folder, self._on_progress = job, loaded, folder, on_progress
        self.objectives = Objectives.parse(job.objectives)
        self.refitted = load_refitted(job.refitted, loaded, folder)
        self.routed = load_routed(job.routers, loaded, folder)
        self.study = SearchStudy(open_storage(job.storage, folder), job.study_name, self.objectives)
        budget_s = None if job.budget_minutes is None else 60 * job.budget_minutes
        self.clock = Clock(budget_s, self.study.spent_s, started)
        self.prompts = _chosen_prompts(job, loaded, search_prompts, job.num_prompts)
        self.final_prompts = _chosen_prompts(job, loaded, evaluation_prompts, _FINAL_PROMPTS * job.num_prompts)
        calibration = encode_prompts(calibration_prompts(), loaded.tokenizer, _LONGEST_PROMPT)
        self._fitter = DraftFitter(loaded, [prompt.tokens for prompt in calibration], folder)
        self.evaluator = RuntimeEvaluator(
            loaded, calibration, self.prompts, _evaluator_options(job), self._on_calibration, self.final_prompts,
            self.routed,
        )  # fmt: skip

    def run(self) -> DraftProfile:
        """Everything from calibration to the final profile."""
        self.study.check_identity(self.evaluator.identity)
        self._describe()
        self._calibrate()
        self._fit_effort()
        maker = self._maker()
        self.loop = SearchLoop(
            self.study,
            self.evaluator,
            self.clock,
            max_extra_bytes=self.job.max_extra_bytes,
            on_progress=self._on_progress,
            on_best=lambda best: self._save(maker.make(best, measurement=None)),
        )
        try:
            conclusion = search_cascade(self.loop, self._options())
            profile = self._finish(maker, conclusion)
        finally:
            write_trials(self.study, self.folder)
        return profile

    def _describe(self) -> None:
        """Study-wide facts, for whoever opens the study later."""
        facts: dict[str, Any] = {
            "model": self.loaded.name,
            "fingerprint": self.loaded.fingerprint,
            "widen": self.loaded.widen,
            "command": " ".join(sys.orig_argv),
            "versions": versions(),
            "device": self.evaluator.stamp.model_dump(mode="json"),
            "config": self.job.model_dump(mode="json"),
            "sampler": self.job.searcher,
        }
        for name, value in facts.items():
            if self.study.fact(name) != value:
                self.study.set_fact(name, value)

    def _calibrate(self) -> None:
        """Measure F0, or take it from the study so that a resumed search sees the same figures."""
        self._report("calibrate", 0, 1)
        known = self.study.fact("calibration")
        if self.clock.budget_s is not None:
            self.evaluator.sensitivity_s = _SENSITIVITY_SHARE * self.clock.budget_s
            self.evaluator.prediction_s = _PREDICTION_SHARE * self.clock.budget_s
        state = self.evaluator.calibrate(json.loads(known) if known else None)
        if not known:
            self.study.set_fact("calibration", json.dumps(state))

    def _fit_effort(self) -> None:
        """As many prompts, tokens and repeats to a measurement as there is time for; the same on resuming.

        A study that measured before this was done goes on as it began.
        """
        known = self.study.fact("effort")
        if known:
            self.evaluator.effort = Effort(**json.loads(known))
            return
        if self.clock.left_s is not None and not self.study.recorded("measure"):
            self.evaluator.effort = self.evaluator.affordable_effort(_MEASUREMENT_SHARE * self.clock.left_s)
        self.study.set_fact("effort", json.dumps(asdict(self.evaluator.effort)))

    def _on_calibration(self, done: int, total: int) -> None:
        self._report("calibrate", done, total)

    def _report(self, stage: str, trial: int, total: int) -> None:
        if self._on_progress is not None:
            self._on_progress(SearchProgress(stage, trial, total, seconds_left=self.clock.left_s))

    def _options(self) -> PipelineOptions:
        job = self.job
        return PipelineOptions(
            searcher=job.searcher,
            num_trials=job.num_trials,
            seed=job.seed,
            objectives=self.objectives,
            space=SpaceOptions(channels=job.channels),
            compose=ComposeOptions(job.num_finalists, job.max_draft_tokens, job.free_drafts, tuple(self.routed)),
            decider=self._decider(),
            refitted=self.refitted,
            fit=self._fitter.fit if job.fit else None,
        )

    def _decider(self) -> LearnedDecider | None:
        job = self.job
        if job.controller is None:
            return None
        budgets = Budgets(job.budget, job.max_extra_bytes)
        return load_decider(job.controller.expanduser(), self.evaluator.features, budgets)

    def _maker(self) -> ProfileMaker:
        job = self.job
        return ProfileMaker(
            target=target_stamp(self.loaded),
            device=self.evaluator.stamp,
            study=job.study_name,
            storage=redacted(job.storage or f"sqlite:///{self.folder / SQLITE_NAME}"),
            searcher="controller" if job.controller is not None else job.searcher,
            seed=job.seed,
            confidence=job.confidence,
            verify_cost=self.evaluator.latency.verify_costs,
            prior_of=self.evaluator.prior,
        )

    def _save(self, profile: DraftProfile) -> None:
        profile.save(self.folder / PROFILE_NAME)

    def _finish(self, maker: ProfileMaker, conclusion: Conclusion) -> DraftProfile:
        """Baselines, the final profile, search.json."""
        if conclusion.best is None:
            profile = maker.nothing_found()
        else:
            measurement, baselines = self._final_figures(conclusion)
            profile = maker.make(
                conclusion.best,
                trial=self.study.number_of(conclusion.best.key),
                conclusion=conclusion.cascade,
                measurement=measurement,
                baselines=baselines,
            )
        self._save(profile)
        front = self.objectives.front(predicted_drafts(self.loop))
        pareto = [{"draft": describe_draft(draft), **evaluation.to_json()} for draft, evaluation in front]
        features, effort = self.evaluator.features.to_json(), asdict(self.evaluator.effort)
        write_search(self.folder, conclusion, self.study, {"front": pareto, "features": features, "effort": effort})
        self._report("baselines", 1, 1)
        return profile

    def _final_figures(self, conclusion: Conclusion) -> tuple[Measurement | None, list[Baseline]]:
        """The measurement of the winner and the baselines; from the study as far as this was done before."""
        assert conclusion.best is not None
        document = json.loads(self.study.fact("final_figures") or "{}")
        if document.get("key") != conclusion.best.key:
            figures = self._session_figures(conclusion)
            if figures is None:
                return None, []
            document = figures
            self.study.set_fact("final_figures", json.dumps(document))
        if self.job.hf_baseline and not document.get("hf_is_in", True):  # earlier versions wrote it whole
            document["baselines"] += [baseline.model_dump(mode="json") for baseline in self._hf_baselines()]
            document["hf_is_in"] = True
            self.study.set_fact("final_figures", json.dumps(document))
        baselines = [Baseline.model_validate(entry) for entry in document["baselines"]]
        return Measurement.model_validate(document["measurement"]), baselines

    def _session_figures(self, conclusion: Conclusion) -> dict[str, Any] | None:
        """What the last comparison says of the winner and of our other contestants; None where there was none."""
        best, session, confidence = conclusion.best, self.evaluator.last_session, self.job.confidence
        assert best is not None
        name = next((name for name, finalist in conclusion.finalists.items() if finalist.key == best.key), None)
        if session is None or name is None:
            return None
        measurement = measurement_of(
            session, name, self.evaluator.effort.new_tokens, confidence, temperature=self.job.temperature
        )
        others = [BASELINE, *(other for other in session.runs if other not in (BASELINE, name))]
        return {
            "key": best.key,
            "measurement": measurement.model_dump(mode="json"),
            "baselines": [baseline.model_dump(mode="json") for baseline in baselines_of(session, others, confidence)],
            "hf_is_in": False,
        }

    def _hf_baselines(self) -> list[Baseline]:
        """Hugging Face's generate beside our autoregressive decoding, as much of it as the time allows."""
        self._report("baselines", 0, 1)
        sampling, seed = SamplingConfig(temperature=self.job.temperature), self.job.seed
        baseline = HFBaseline(self.loaded, self.final_prompts[0].tokens, sampling, seed)
        # The shortest first: where its prefill takes longer than all that is measured, few of them are affordable.
        prompts = sorted(self.final_prompts[: self.evaluator.effort.num_prompts], key=lambda prompt: len(prompt.tokens))
        seconds = self._hf_seconds()
        deadline = time.monotonic() + seconds
        names, new_tokens = _affordable_hf(baseline, len(prompts[0].tokens), seconds)
        contestants = {
            BASELINE: decoder_contestant(
                self.loaded.runtime, Cascade(), self.loaded.generation_eos, sampling=sampling, seed=seed
            ),
            **{name: contestant for name, contestant in baseline.contestants().items() if name in names},
        }
        session = measure_speedup(
            contestants,
            prompts,
            max_new_tokens=min(self.evaluator.effort.new_tokens, new_tokens),
            seed=seed,
            confidence=self.job.confidence,
            on_prompt=lambda so_far: time.monotonic() > deadline and len(so_far.runs[BASELINE]) >= _HF_LEAST_PROMPTS,
        )
        settings = {name: baseline.settings(name) for name in names}
        return baselines_of(session, names, self.job.confidence, settings)

    def _hf_seconds(self) -> float:
        left, budget = self.clock.left_s, self.clock.budget_s
        return 60.0 if left is None or budget is None else max(left, _HF_SHARE * budget / 2)


def _affordable_hf(baseline: HFBaseline, prompt_tokens: int, seconds: float) -> tuple[list[str], int]:
    """Which of the contestants, plain generation in any case, and how many tokens of each of the fewest prompts."""
    names, runs = list(baseline.contestants()), _HF_LEAST_PROMPTS + 1  # one of them to warm up
    while len(names) > 1 and runs * len(names) * baseline.seconds(prompt_tokens, _HF_LEAST_TOKENS) > seconds:
        names.pop()
    decode_s = seconds / (runs * len(names)) - baseline.seconds(prompt_tokens, 0)
    return names, max(int(decode_s / baseline.seconds(0, 1)), _HF_LEAST_TOKENS)


def _chosen_prompts(
    job: SearchJob, loaded: LoadedModel, bundled: Callable[[], list[Prompt]], count: int
) -> list[TokenPrompt]:
    """The user's prompts, else some of a half of the bundled ones."""
    everything = bundled() if job.prompts is None else read_prompts(job.prompts)
    chosen = choose_prompts(everything, count, tasks=job.tasks, seed=job.seed)
    room = min(loaded.runtime.max_length - job.new_tokens_per_prompt - 1, _LONGEST_PROMPT)
    return encode_prompts(chosen, loaded.tokenizer, room)


def _evaluator_options(job: SearchJob) -> EvaluatorOptions:
    return EvaluatorOptions(
        bits=tuple(job.bits),
        max_draft_tokens=job.max_draft_tokens,
        calibration_tokens=job.calibration_tokens,
        new_tokens_per_prompt=job.new_tokens_per_prompt,
        temperature=job.temperature,
        confidence=job.confidence,
        seed=job.seed,
    )


__all__: Sequence[str] = ("RunningSearch", "run_search")
