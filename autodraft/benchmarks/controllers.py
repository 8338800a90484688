"""Learning controllers beside the other searchers, on one target: figures for the record in reports/.

Run as `python -m autodraft.benchmarks.controllers`. Knows nothing of how any of them works. All see one calibration,
predictions are kept in the work folder, and every finished part is written at once, so the program can be stopped at
any time and goes on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna

from autodraft.benchmarks.controller_budgets import Late, budget_rows, train
from autodraft.benchmarks.controller_searches import search_row
from autodraft.benchmarks.writing import command_line, report_parser
from autodraft.errors import InputError
from autodraft.evaluator import Evaluation, chain_of
from autodraft.measure.prompts import calibration_prompts, choose_prompts, encode_prompts, evaluation_prompts
from autodraft.policy_text import decode_policy
from autodraft.report.controller_plot import plot_controllers
from autodraft.report.controller_table import controllers_markdown
from autodraft.report.files import report_file, write_document
from autodraft.runtime import load_model
from autodraft.search.agents.files import AGENT_NAME
from autodraft.search.cached import CachedEvaluator, calibrated_in
from autodraft.search.runtime_evaluator import EvaluatorOptions, RuntimeEvaluator

METHODS = ("random", "tpe", "staged", "evolution", "knapsack", "ppo", "maskable-ppo", "hierarchical", "sac")
STAGES = ("search", "budgets", "transfer", "measure")
_LONGEST_PROMPT = 384


class Target:
    """One model with its calibration and its cache of predictions, in a folder."""

    def __init__(self, model: str, folder: Path, num_prompts: int, new_tokens: int) -> None:
        loaded = load_model(model)
        calibration = encode_prompts(calibration_prompts(), loaded.tokenizer, _LONGEST_PROMPT)
        prompts = encode_prompts(choose_prompts(evaluation_prompts(), num_prompts), loaded.tokenizer, _LONGEST_PROMPT)
        options = EvaluatorOptions(new_tokens_per_prompt=new_tokens)
        self.runtime = RuntimeEvaluator(loaded, calibration, prompts, options)
        self.evaluator = calibrated_in(self.runtime, folder)


@cache
def _target(model: str, folder: Path, num_prompts: int, new_tokens: int) -> Target:
    """Loaded once in every process."""
    return Target(model, folder, num_prompts, new_tokens)


def _search(options: Any, method: str, seed: int) -> dict[str, Any]:
    """One search, with predictions of its own: what it takes does not depend on which other searches ran before."""
    print(f"searching: {method}, seed {seed}", file=sys.stderr)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    target = _target(options.model, options.work / "target", options.num_prompts, options.new_tokens)
    evaluator = CachedEvaluator(target.runtime, options.work / "searches" / f"{method}-{seed}.jsonl")
    return search_row(evaluator, method, seed, options.evaluations)


class Benchmark:
    """The document, and what adds to it."""

    def __init__(self, options: Any, arguments: Sequence[str] | None) -> None:
        self.options = options
        self._deadline = time.monotonic() + 60 * options.minutes
        path = report_file(options.output, ".json")
        self.document: dict[str, Any] = (
            json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"searches": []}
        )
        self.target = Target(options.model, options.work / "target", options.num_prompts, options.new_tokens)
        self.document |= {
            "model": options.model,
            "num_evaluations": options.evaluations,
            "num_prompts": options.num_prompts,
            "new_tokens": options.new_tokens,
            "device": self.target.runtime.stamp.model_dump(mode="json"),
            "command": command_line("controllers", arguments),
        }
        self._check_calibration()

    def _check_calibration(self) -> None:
        """Predictions with the times of one calibration are not compared with those of another."""
        features = json.dumps(self.target.evaluator.features.to_json())
        calibration = hashlib.sha256(features.encode()).hexdigest()[:16]
        if self.document.setdefault("calibration", calibration) != calibration:
            raise InputError(f"{self.options.output}.json was made with another calibration; choose another --output")

    def _is_late(self) -> bool:
        return bool(time.monotonic() > self._deadline)

    def write(self) -> None:
        """JSON and Markdown, and a picture where there is a search to show."""
        picture = report_file(self.options.output, ".png")
        if self.document["searches"]:
            plot_controllers(self.document, picture)
        write_document(self.options.output, self.document, lambda text: controllers_markdown(text, picture.name))

    def search(self) -> None:
        """Every method with every seed at the largest number of evaluations; smaller ones are read off its curve."""
        options, rows = self.options, self.document["searches"]
        known = {(row["method"], row["seed"]) for row in rows}
        wanted = [(method, seed) for seed in range(options.seeds) for method in options.methods.split(",")]
        jobs = [job for job in wanted if job not in known]
        with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
            running = [pool.submit(_search, options, *job) for job in jobs]
            for done in as_completed(running):
                if done.cancelled():
                    continue
                rows.append(done.result())
                rows.sort(key=lambda row: wanted.index((row["method"], row["seed"])))
                self.write()
                if self._is_late():
                    pool.shutdown(wait=False, cancel_futures=True)

    def budgets(self) -> None:
        """A controller trained for all budgets against a search for each."""
        if "budgets" not in self.document:
            training = train(self.target.evaluator, self._agent.parent, self.options.budget_episodes, self._is_late)
            rows = budget_rows(self.target.evaluator, self._agent, self.options.budget_evaluations)
            self.document["budgets"] = {"training": training, "rows": rows}
            self.write()

    def transfer(self) -> None:
        """The same controller on another model against a search there."""
        if self.options.second_model and "transfer" not in self.document:
            second = Target(self.options.second_model, self.options.work / "second", 2, self.options.new_tokens)
            rows = budget_rows(second.evaluator, self._agent, self.options.budget_evaluations)
            self.document["transfer"] = {"model": Path(self.options.second_model).name, "rows": rows}
            self.write()

    @property
    def _agent(self) -> Path:
        return Path(self.options.work / "controller" / AGENT_NAME)

    def measure(self) -> None:
        """F2 of each method's best policy of the first seed, in one session."""
        if "measured" in self.document or self._is_late():
            return
        best = {row["method"]: row["best"] for row in self.document["searches"] if row["seed"] == 0}
        cascades = {
            method: chain_of(decode_policy(found["policy"]), Evaluation.from_json(found["evaluation"]))
            for method, found in best.items()
        }
        measured = self.target.runtime.compare(cascades, self.options.measure_seconds)
        self.document["measured"] = {name: evaluation.to_json() for name, evaluation in measured.items()}
        self.write()


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is missing, part by part."""
    parser = report_parser("controllers", __doc__, "reports/controllers")
    parser.add_argument("stages", nargs="*", default=STAGES, help="search, budgets, transfer, measure; default all")
    parser.add_argument("--model", default="llama")
    parser.add_argument("--second-model", help="where the controller is tried out of what it knows")
    parser.add_argument("--work", type=Path, default=Path("autodraft-runs/controllers"))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--evaluations", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1, help="searches at the same time")
    parser.add_argument("--budget-episodes", type=int, default=3000)
    parser.add_argument("--budget-evaluations", type=int, default=300)
    parser.add_argument("--num-prompts", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--measure-seconds", type=float, default=120.0)
    parser.add_argument("--minutes", type=float, default=60.0, help="begin nothing new after this")
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    benchmark = Benchmark(options, arguments)
    with contextlib.suppress(Late):
        for stage in options.stages:
            getattr(benchmark, stage)()
    benchmark.write()


if __name__ == "__main__":
    main()
