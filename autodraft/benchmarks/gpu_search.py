"""The main job on a CUDA device, as a user would run it: search a draft, then its profile beside other ways to decode.

Knows nothing of parts or of tables.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from autodraft.benchmarks.gpu_parts import Emit
from autodraft.benchmarks.speed import cascade_lines
from autodraft.configuration import SearchJob
from autodraft.measure.bench import run_bench
from autodraft.profile import DraftProfile
from autodraft.report.profile_table import one_line
from autodraft.runtime import LoadedModel
from autodraft.search import run_search
from autodraft.search.loop import SearchProgress

PROFILE_NAME = "profile.json"
BENCH_METHODS = (
    "profile",
    "chain",
    "vertical",
    "dytc",
    "suffix-automaton",
    "prompt-lookup",
    "hf-generate",
    "int8-autoregressive",
    "int4-autoregressive",
)


def measure_search(job: SearchJob, emit: Emit) -> None:
    """Search, and a row on what was exported; the same job goes on where an earlier one stopped."""
    started = time.monotonic()
    profile = run_search(job, _Progress().update)
    emit({"kind": "search", "minutes": job.budget_minutes, **profile_figures(profile, time.monotonic() - started)})


class _Progress:
    """A line on stderr where a search enters a stage, or finds something better."""

    def __init__(self) -> None:
        self._shown: tuple[str, float | None] | None = None

    def update(self, event: SearchProgress) -> None:
        if (event.stage, event.best) != self._shown:
            self._shown = event.stage, event.best
            best = "" if event.best is None else f", best so far {event.best:.2f}x ({event.best_fidelity})"
            print(f"search: {event.stage}, {event.trial} of {event.total}{best}", file=sys.stderr)


def profile_figures(profile: DraftProfile, wall_s: float) -> dict[str, Any]:
    """Of a profile what a report needs, its figures with the cascade that they belong to; no paths, no command."""
    document = profile.model_dump(mode="json", include={"measurement", "predicted", "baselines"})
    cascade = profile.rejected or profile.cascade
    policies = [str(policy) for policy in cascade.policies]
    lines = cascade_lines({"cascade": cascade.model_dump(mode="json")}, policies)
    return {"wall_s": wall_s, "conclusion": one_line(profile), "cascade_lines": lines, **document}


def measure_bench(
    loaded: LoadedModel, path: Path, emit: Emit, *, num_prompts: int, new_tokens: int, temperature: float = 0.0
) -> None:
    """A row with the report of `autodraft bench` on a profile, of a few methods."""
    report = run_bench(
        loaded,
        DraftProfile.load(path),
        methods=BENCH_METHODS,
        num_prompts=num_prompts,
        new_tokens_per_prompt=new_tokens,
        temperature=temperature,
        on_progress=lambda line: print(f"bench: {line}", file=sys.stderr),
    )
    emit({"kind": "bench", **report.to_json()})
