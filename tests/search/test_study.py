"""The stored study: SIGKILL, zombies, other targets, storages, dashboard attributes."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from autodraft.errors import InputError
from autodraft.search.loop import Clock, SearchLoop
from autodraft.search.objectives import Objectives
from autodraft.search.pipeline import PipelineOptions, explore_policies
from autodraft.search.study import SearchStudy, open_storage, redacted
from autodraft.search.testing import PlantedEvaluator

SLOW_SEARCH = """
import sys, time
from pathlib import Path
from autodraft.search.loop import Clock, SearchLoop
from autodraft.search.objectives import Objectives
from autodraft.search.pipeline import PipelineOptions, explore_policies
from autodraft.search.study import SearchStudy, open_storage
from autodraft.search.testing import PlantedEvaluator

class Slow(PlantedEvaluator):
    def predict(self, policy, weights=None):
        time.sleep(0.05 if self.predictions < 30 else 600)
        return super().predict(policy, weights)

world = Slow(3)
study = SearchStudy(open_storage(None, Path(sys.argv[1])), "test", Objectives())
explore_policies(SearchLoop(study, world, Clock(None)), PipelineOptions(num_trials=40))
"""


def finished(folder: Path) -> int:
    """Counts with a plain read-only connection: the study belongs to the other process."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT COUNT(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0])
    except sqlite3.OperationalError:  # no file or no tables yet
        return 0


def explore(folder: Path, world: PlantedEvaluator) -> SearchLoop:
    study = SearchStudy(open_storage(None, folder), "test", Objectives())
    loop = SearchLoop(study, world, Clock(None))
    explore_policies(loop, PipelineOptions(num_trials=40))
    return loop


def test_a_search_killed_by_sigkill_loses_no_finished_trial(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLOW_SEARCH, str(tmp_path)])
    deadline = time.monotonic() + 600
    while finished(tmp_path) < 8 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = finished(tmp_path)
    assert 8 <= before <= 30
    world = PlantedEvaluator(3)
    loop = explore(tmp_path, world)
    assert world.predictions == len(loop.predicted) - before
    digests = [trial.user_attrs["digest"] for trial in loop.study.study.get_trials()]
    assert len(digests) == len(set(digests)) == len(loop.predicted)
    untouched = explore(tmp_path / "whole", PlantedEvaluator(3))
    assert list(untouched.predicted) == list(loop.predicted)


def test_zombies_are_failed_and_fresh_trials_left_alone(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path)
    study = SearchStudy(storage, "test", Objectives()).study
    old = optuna.trial.create_trial(state=TrialState.RUNNING)
    old.datetime_start = datetime.now() - timedelta(hours=1)
    study.add_trial(old)
    study.ask()
    reopened = SearchStudy(storage, "test", Objectives())
    assert reopened.repaired == 1
    assert [trial.state for trial in reopened.study.get_trials()] == [TrialState.FAIL, TrialState.RUNNING]


def test_evaluations_of_another_target_are_not_mixed_in(tmp_path: Path) -> None:
    study = SearchStudy(open_storage(None, tmp_path), "test", Objectives())
    study.check_identity({"model": "a", "device": "x"})
    study.check_identity({"model": "a", "device": "x"})
    with pytest.raises(InputError, match="another model"):
        study.check_identity({"model": "b", "device": "x"})
    with pytest.raises(InputError, match="other objectives"):
        SearchStudy(open_storage(None, tmp_path), "test", Objectives(("speedup", "memory")))


def test_journal_file_and_bad_storages(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "study.log"), tmp_path)
    SearchStudy(storage, "test", Objectives()).set_fact("a", 1)
    assert SearchStudy(open_storage(str(tmp_path / "study.log"), tmp_path), "test", Objectives()).fact("a") == 1
    with pytest.raises(InputError, match="neither a database URL nor a journal"):
        open_storage("study.sqlite", tmp_path)
    with pytest.raises(InputError, match="cannot open the storage nosuchdb://host/x"):
        open_storage("nosuchdb://user:secret@host/x", tmp_path)
    assert redacted("postgresql://user:secret@host/db") == "postgresql://host/db"


def test_trials_say_what_the_dashboard_needs(tmp_path: Path) -> None:
    study = SearchStudy(open_storage(None, tmp_path), "test", Objectives())
    explore_policies(SearchLoop(study, PlantedEvaluator(2), Clock(None)), PipelineOptions(num_trials=6))
    for trial in study.study.get_trials():
        wanted = {"policy", "digest", "stage", "fidelity", "speedup", "tokens_per_cycle", "cost", "verify_cost",
                  "extra_bytes", "device_digest", "feasible", "violation/predicted", "wall_s"}  # fmt: skip
        assert wanted <= set(trial.user_attrs)
        assert trial.constraints == {"predicted": 1.0}
        assert all(isinstance(value, int | float | str) for value in trial.user_attrs.values())


def test_unknown_objectives_are_refused() -> None:
    assert Objectives.parse("speedup, memory").names == ("speedup", "memory")
    with pytest.raises(InputError, match="is unknown"):
        Objectives.parse("beauty")


def test_the_clock_counts_earlier_runs() -> None:
    clock = Clock(1e6, spent_s=4e5)  # days, so that a pause in between makes no difference
    assert clock.left_s == pytest.approx(6e5, abs=1000)
    clock.start_shares()
    assert clock.seconds_until(0.5) == pytest.approx(3e5, abs=1000) and not clock.is_past(0.1)
    assert Clock(10.0, spent_s=11.0).is_past(1.0) and not Clock(None).is_past(1.0)
