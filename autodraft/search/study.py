"""`SearchStudy`: the stored record of a search, one Optuna study that the dashboard opens.

Knows nothing of how candidates are chosen or evaluated. Every evaluation is one finished trial with its whole
result in it, so the record doubles as the cache from which a killed search resumes: what is there is never
evaluated again. Study-wide facts (model, device, command, calibration) are attributes of the study.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from autodraft.errors import InputError
from autodraft.evaluator import Evaluation
from autodraft.search.objectives import Objectives

SQLITE_NAME = "study.db"
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_GRACE = timedelta(minutes=5)
_BUSY_SECONDS = 60


def open_storage(storage: str | None, folder: Path) -> BaseStorage:
    """SQLite in `folder` by default; a path that ends with .log is a journal file; anything else a database URL."""
    url = storage or f"sqlite:///{folder / SQLITE_NAME}"
    if "://" not in url:
        if not url.endswith(".log"):
            raise InputError(f"storage {url!r} is neither a database URL nor a journal file (*.log)")
        Path(url).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(url))
    engine: dict[str, Any] = {}
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        engine = {"connect_args": {"timeout": _BUSY_SECONDS}}
    try:
        return RDBStorage(url, engine_kwargs=engine)
    except Exception as error:  # every database driver has errors of its own
        raise InputError(f"cannot open the storage {redacted(url)}: {str(error).splitlines()[0]}") from error


def redacted(url: str) -> str:
    """A storage URL without its credentials."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else url


class SearchStudy:
    """One stored study: opens or creates it, repairs it, records trials and answers from them.

    Args:
        storage: where it lives.
        name: of the study; an existing one is continued.
        objectives: of the search; an existing study must have the same.
    """

    def __init__(self, storage: BaseStorage, name: str, objectives: Objectives) -> None:
        self.objectives = objectives
        self.study = optuna.create_study(
            storage=storage, study_name=name, directions=objectives.directions, load_if_exists=True
        )
        if [direction.name.lower() for direction in self.study.directions] != objectives.directions:
            raise InputError(f"the study {name!r} has other objectives; choose another study name or output folder")
        if not self.study.user_attrs.get("objectives"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.study.set_metric_names(list(objectives.names))
            self.set_fact("objectives", ",".join(objectives.names))
        self.repaired = self._fail_zombies()
        self._ranges: dict[str, IntDistribution] = {}
        self._evaluations: dict[str, Evaluation | None] = {}
        self._recorded: dict[str, int] = {}
        self.spent_s = 0.0
        for trial in self.study.get_trials(deepcopy=False, states=_FINISHED):
            self._remember(trial)

    def _fail_zombies(self) -> int:
        """Fail trials that another tool's killed worker left running: samplers would avoid their points for ever."""
        zombies = [t for t in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if _is_dead(t)]
        for trial in zombies:
            self.study.tell(trial.number, state=TrialState.FAIL)
        return len(zombies)

    def _remember(self, trial: FrozenTrial) -> None:
        key, result = trial.user_attrs.get("key"), trial.user_attrs.get("result")
        if key is None or (result is None and "fail_reason" not in trial.user_attrs):
            return  # not one of ours
        self._evaluations[key] = Evaluation.from_json(json.loads(result)) if result else None
        stage = str(trial.user_attrs.get("stage"))
        self._recorded[stage] = self._recorded.get(stage, 0) + 1
        self.spent_s = max(self.spent_s, float(trial.user_attrs.get("spent_s", 0.0)))

    def __contains__(self, key: str) -> bool:
        return key in self._evaluations

    def __getitem__(self, key: str) -> Evaluation | None:
        """The recorded evaluation; None is a candidate that failed."""
        return self._evaluations[key]

    def recorded(self, stage: str) -> int:
        """Trials of a stage that earlier runs have finished."""
        return self._recorded.get(stage, 0)

    def declare(self, ranges: Mapping[str, IntDistribution]) -> None:
        """Ranges of the parameters that trials will have; a name has one range within a study."""
        self._ranges.update(ranges)

    def keys(self) -> list[str]:
        """Keys of everything that has been evaluated."""
        return list(self._evaluations)

    @property
    def num_evaluations(self) -> int:
        return len(self._evaluations)

    def fact(self, name: str) -> Any:
        return self.study.user_attrs.get(name)

    def set_fact(self, name: str, value: Any) -> None:
        self.study.set_user_attr(name, value)

    def check_identity(self, identity: Mapping[str, str]) -> None:
        """Remember what evaluations depend on, or refuse to mix them with those of something else."""
        known = self.fact("identity")
        if known is None:
            self.set_fact("identity", dict(identity))
        elif known != dict(identity):
            changed = sorted(name for name in {*known, *identity} if known.get(name) != identity.get(name))
            raise InputError(
                f"the study {self.study.study_name!r} was made with another {', '.join(changed)};"
                " choose another output folder or study name"
            )

    def record(
        self,
        key: str,
        attributes: Mapping[str, Any],
        params: Mapping[str, int],
        evaluation: Evaluation,
        violations: Mapping[str, float],
    ) -> None:
        """Add a finished evaluation as one trial, in one write; `violations` above 0 make it infeasible.

        Predictions are marked infeasible too: Optuna's `best_trial` then names a measured candidate.
        """
        constraints = {"predicted": float(evaluation.fidelity == "predicted"), **violations}
        document = evaluation.to_json()
        user_attrs = {name: value for name, value in document.items() if isinstance(value, int | float | str)}
        user_attrs |= {f"violation/{name}": value for name, value in constraints.items()}  # the dashboard shows these
        user_attrs |= {"feasible": all(value <= 0 for value in constraints.values()), "result": json.dumps(document)}
        values = self.objectives.values(evaluation)
        pruned = evaluation.stopped_early and len(values) == 1
        self._add(
            {**attributes, **user_attrs, "key": key},
            params,
            evaluation.wall_s,
            state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
            values=values,
            constraints=constraints,
            intermediate_values=dict(enumerate(evaluation.per_prompt)) if len(values) == 1 else None,
        )
        self._evaluations[key] = evaluation

    def record_failure(self, key: str, attributes: Mapping[str, Any], params: Mapping[str, int], reason: str) -> None:
        """Add a candidate that cannot run, with its reason; it is not tried again."""
        state = TrialState.PRUNED if len(self.objectives.names) == 1 else TrialState.FAIL
        user_attrs = {**attributes, "key": key, "fail_reason": reason, "feasible": False}
        self._add(user_attrs, params, 0.0, state=state)
        self._evaluations[key] = None

    def _add(self, user_attrs: Mapping[str, Any], params: Mapping[str, int], wall_s: float, **fields: Any) -> None:
        distributions: dict[str, BaseDistribution] = {
            name: self._ranges.get(name, IntDistribution(0, _HIGHEST)) for name in params
        }
        trial = optuna.trial.create_trial(
            params=dict(params), distributions=distributions, user_attrs=dict(user_attrs), **fields
        )
        if trial.datetime_start is not None:
            trial.datetime_start -= timedelta(seconds=wall_s)
        self.study.add_trial(trial)

    def number_of(self, key: str) -> int | None:
        """Number of the trial that holds the evaluation of `key`."""
        for trial in reversed(self.study.get_trials(deepcopy=False, states=_FINISHED)):
            if trial.user_attrs.get("key") == key and "result" in trial.user_attrs:
                return trial.number
        return None


_HIGHEST = 1024


def _is_dead(trial: FrozenTrial) -> bool:
    """Whether a running trial has been left behind. Ours are written when they are finished, so none should run."""
    return trial.datetime_start is None or datetime.now() - trial.datetime_start > _GRACE
