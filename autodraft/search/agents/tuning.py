"""Optuna tunes an agent: short trainings with other hyper-parameters, in a study of the search's own kind.

Knows nothing of models. Every trial trains in a folder of its own and is scored by what the controller then decides,
one rollout for each of a few budgets. The study is stored, so tuning goes on where it was stopped, and the dashboard
shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from autodraft.evaluator import Evaluator, TrialFailed
from autodraft.policies.choices import Budgets
from autodraft.search.agents.algorithms import AgentSettings
from autodraft.search.agents.training import ControllerTraining
from autodraft.search.agents.training_options import TrainingOptions
from autodraft.search.sampled import make_sampler
from autodraft.search.study import open_storage

STUDY_NAME = "agent-settings"
_COST_SHARES = (0.1, 0.25, 0.5)
_WORST = math.log(0.05)


def suggested(trial: Trial, base: AgentSettings) -> AgentSettings:
    """A point of the space that is searched, around what is not."""
    return replace(
        base,
        learning_rate=trial.suggest_float("learning_rate", 5e-4, 2e-2, log=True),
        entropy=trial.suggest_float("entropy", 1e-3, 0.2, log=True),
        width=2 ** trial.suggest_int("log2_width", 4, 6),
        episodes_per_update=4 * trial.suggest_int("episodes_per_update/4", 1, 6),
        shaping=("none", "proxy")[trial.suggest_int("shaping", 0, 1)],
    )


def settings_of(trial: FrozenTrial, base: AgentSettings) -> AgentSettings:
    """The settings that a finished trial tried."""
    return suggested(optuna.trial.FixedTrial(trial.params), base)  # type: ignore[arg-type]


def tune_settings(
    evaluator: Evaluator,
    options: TrainingOptions,
    folder: Path,
    num_trials: int,
    on_trial: Callable[[int, float], None] | None = None,
) -> AgentSettings:
    """The best settings of `num_trials` trainings of `options.episodes` each, `options.settings` among them."""
    study = optuna.create_study(
        storage=open_storage(None, folder),
        study_name=STUDY_NAME,
        direction="maximize",
        sampler=make_sampler("tpe", options.seed)[0],
        load_if_exists=True,
    )
    if not study.trials:
        study.enqueue_trial(_point_of(options.settings))

    def objective(trial: Trial) -> float:
        settings = suggested(trial, options.settings)
        training = ControllerTraining(
            evaluator, replace(options, settings=settings), folder / "trials" / str(trial.number)
        )
        training.run()
        return _score(evaluator, training)

    while (done := len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))) < num_trials:
        study.optimize(objective, n_trials=1)
        if on_trial is not None:
            on_trial(done + 1, study.best_value)
    return settings_of(study.best_trial, options.settings)


def _point_of(settings: AgentSettings) -> dict[str, Any]:
    return {
        "learning_rate": settings.learning_rate,
        "entropy": settings.entropy,
        "log2_width": round(math.log2(settings.width)),
        "episodes_per_update/4": max(settings.episodes_per_update // 4, 1),
        "shaping": int(settings.shaping == "proxy"),
    }


def _score(evaluator: Evaluator, training: ControllerTraining) -> float:
    """Mean log of the predicted speedups that the controller reaches, without a budget and with a few of time."""
    features = evaluator.features
    least = min(features.base_ms.values()) / features.target_ms
    budgets = [Budgets(), *(Budgets(max_cost=least + share * (1.0 - least)) for share in _COST_SHARES)]
    scores = []
    for budget in budgets:
        try:
            evaluation = evaluator.predict(training.decider(budget).decide(features))
            scores.append(max(math.log(max(evaluation.speedup, 1e-9)), _WORST))
        except TrialFailed:
            scores.append(_WORST)
    return fmean(scores)
