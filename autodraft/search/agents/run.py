"""`train_controller`: a job in, a saved agent out.

Knows nothing of how agents learn: it puts a target behind an evaluator and a folder behind the training. Running the
same job again continues it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna

from autodraft.controller_job import ControllerJob
from autodraft.measure.prompts import calibration_prompts, encode_prompts
from autodraft.runtime import load_model
from autodraft.search.agents.algorithms import AgentSettings
from autodraft.search.agents.curve import Episode
from autodraft.search.agents.training import ControllerTraining
from autodraft.search.agents.training_options import TrainingOptions
from autodraft.search.agents.tuning import tune_settings
from autodraft.search.cached import calibrated_in
from autodraft.search.loop import SearchProgress
from autodraft.search.runtime_evaluator import EvaluatorOptions, RuntimeEvaluator

_LONGEST_PROMPT = 384
_TUNING_SHARE = 10
"""A trial of tuning has this part of the episodes of the training."""


def training_options(job: ControllerJob) -> TrainingOptions:
    """What the job says of the training; an impossible hyper-parameter is an `InputError`."""
    return TrainingOptions(
        algorithm=job.algorithm,
        episodes=job.episodes,
        sample_budget=job.sample_budget,
        channels=job.channels,
        seed=job.seed,
        settings=AgentSettings.from_json(job.settings),
    )


def train_controller(job: ControllerJob, on_progress: Callable[[SearchProgress], None] | None = None) -> Path:
    """Train a controller on a model's predictions; the path of the agent file."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options = training_options(job)
    loaded = load_model(job.model, **job.loading)
    prompts = encode_prompts(calibration_prompts(), loaded.tokenizer, _LONGEST_PROMPT)
    report = on_progress or (lambda progress: None)
    evaluator = calibrated_in(
        RuntimeEvaluator(
            loaded,
            prompts,
            [],
            EvaluatorOptions(calibration_tokens=job.calibration_tokens, seed=job.seed),
            lambda done, total: report(SearchProgress("calibrate", done, total)),
        ),
        job.output_folder,
    )
    if job.tune:
        short = replace(options, episodes=max(job.episodes // _TUNING_SHARE, 1))
        settings = tune_settings(
            evaluator,
            short,
            job.output_folder / "tuning",
            job.tune,
            lambda done, best: report(SearchProgress("tune", done, job.tune)),
        )
        options = replace(options, settings=settings)
    best = 0.0

    def on_episode(episode: Episode) -> None:
        nonlocal best
        best = max(best, episode.speedup)
        report(SearchProgress("train", episode.number, options.episodes, best, "predicted"))

    return ControllerTraining(evaluator, options, job.output_folder, on_episode).run()
