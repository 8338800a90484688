"""Routed drafts beside the best static ones of the same cost: agreement, keys of passed blocks, times, decoding.

Run as `python -m autodraft.benchmarks.radial`. Both kinds are chosen on the same continuations of the target and
judged on continuations of held-out prompts. Every finished part is written at once, and trainings keep checkpoints in
the work folder, so the program can be stopped at any time and goes on where it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from autodraft.benchmarks.radial_decoding import decoding_rows, step_rows
from autodraft.benchmarks.radial_scratch import NETWORKS, scratch_row
from autodraft.benchmarks.writing import command_line, report_parser
from autodraft.measure.device import device_stamp
from autodraft.measure.prompts import encode_prompts, evaluation_prompts
from autodraft.policy import DraftPolicy
from autodraft.policy_text import encode_policy
from autodraft.profile_parts import WeightsFile
from autodraft.report.files import report_file, write_document
from autodraft.report.radial_plot import plot_radial
from autodraft.report.radial_table import radial_markdown
from autodraft.router_job import RouterJob
from autodraft.runtime import LoadedModel, Rows, load_model
from autodraft.runtime.routed import PASSED_KEYS
from autodraft.runtime.router_file import read_router
from autodraft.training.radial.continuations import Continuations
from autodraft.training.radial.evaluate import RouteScore, node_costs, score, score_router
from autodraft.training.radial.run import ROUTER_NAME, START_NAME, SUMMARY_NAME, graph_of, is_trained, train_router
from autodraft.training.radial.static_routes import SWAP_SEQUENCES, best_static_route, policy_along
from autodraft.training.texts import load_streams

STAGES = ("agreement", "keys", "scratch", "steps", "decode")
_DRAFT_WINDOW = 4


class Benchmark:
    """The document, and what adds to it."""

    def __init__(self, options: Any, arguments: Sequence[str] | None) -> None:
        self.options = options
        path = report_file(options.output, ".json")
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.loaded = load_model(options.model)
        runtime = self.loaded.runtime
        self.document: dict[str, Any] = {"agreement": [], **known} | {
            "model": options.model,
            "device": device_stamp(runtime.device, runtime.backend).model_dump(mode="json"),
            "command": command_line("radial", arguments),
        }

    def job(self, cost: float, unit: str = "sub-layer", seed: int = 0) -> RouterJob:
        """The training of one router."""
        settings = {"steps": self.options.steps, "sequences": self.options.sequences, "seed": seed}
        folder = self.options.work / f"{unit}-{cost:g}-{seed}"
        return RouterJob.model_validate(
            {"model": self.options.model, "cost": cost, "unit": unit, "output": folder, **settings}
        )

    def held_out(self, window: int = 1) -> Continuations:
        """Prompts that nothing was chosen on, continued by the target."""
        return held_out_continuations(self.loaded, self.job(0.5), window)

    def write(self) -> None:
        """JSON, Markdown and picture."""
        image = report_file(self.options.output, ".png")
        plot_radial(self.document, image)
        write_document(self.options.output, self.document, lambda document: radial_markdown(document, image.name))

    def agreement(self) -> None:
        """Routers and static policies at the same mean cost."""
        rows, options = self.document["agreement"], self.options
        known = {(row["unit"], row["cost"], row["seed"]) for row in rows}
        for seed in _numbers(options.seeds):
            for unit in options.units.split(","):
                for cost in map(float, options.costs.split(",")):
                    if (unit, cost, seed) not in known:
                        print(f"training: {unit}, {cost:g}, seed {seed}", file=sys.stderr)
                        rows.append(self._agreement_row(self.job(cost, unit, seed)))
                        self.write()

    def _agreement_row(self, job: RouterJob) -> dict[str, Any]:
        path = job.output_folder / SUMMARY_NAME
        if not is_trained(job):
            train_router(job, self.loaded, lambda _: None)
        summary = json.loads(path.read_text(encoding="utf-8"))
        held_out = self.held_out()
        router = read_router(job.output_folder / ROUTER_NAME)
        routed = score_router(held_out, router)
        nodes = self._best_static(job, max(job.cost, routed.cost))
        static = self._static_score(job, nodes, held_out)
        curve = (job.output_folder / "curve.jsonl").read_text(encoding="utf-8").splitlines()
        return {
            "unit": job.unit,
            "cost": job.cost,
            "seed": job.seed,
            "steps": summary["settings"]["steps"],
            "router": routed.to_json(),
            "static": static.to_json(),
            "policy": encode_policy(policy_along(nodes, router.graph)),
            "same_text": summary["held_out"],
            "curve": [json.loads(line) for line in curve],
        }

    def _best_static(self, job: RouterJob, cost: float) -> tuple[int, ...]:
        """The best policy of all searches on what the router learnt from; it may cost what the router's routes do.

        It goes on from the one that the router started from.
        """
        spec = self.loaded.runtime.spec
        graph = graph_of(job, spec)
        streams = load_streams(self.loaded.tokenizer, job.text, job.prompt_tokens, job.seed)
        prompts = streams.windows(job.sequences, job.prompt_tokens, job.seed, 0)[:SWAP_SEQUENCES, 1:]
        training = Continuations(self.loaded.runtime, prompts, job.new_tokens)
        return best_static_route(
            training, graph, node_costs(spec, graph), cost, swaps=self.options.swaps, seed=job.seed + 1,
            first=self._start(job),
        )  # fmt: skip

    def _start(self, job: RouterJob) -> list[int]:
        """The route that a router started from."""
        nodes: list[int] = json.loads((job.output_folder / START_NAME).read_text(encoding="utf-8"))["nodes"]
        return nodes

    def _static_score(self, job: RouterJob, nodes: Sequence[int], held_out: Continuations) -> RouteScore:
        runtime = self.loaded.runtime
        graph = graph_of(job, runtime.spec)
        plan, runs = runtime.plan(policy_along(nodes, graph)), torch.zeros(graph.num_nodes, dtype=torch.long)
        runs[list(nodes)] = 1

        def run(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
            return runtime.forward(plan, held_out.cache, rows), runs.expand(len(rows), -1)

        return score(held_out, run, node_costs(runtime.spec, graph))

    def keys(self) -> None:
        """Agreement at the 1st, 2nd, .. drafted token by how keys of passed blocks are handled."""
        if "keys" not in self.document:
            job, held_out = self.job(self.options.decode_cost), self.held_out(_DRAFT_WINDOW)
            router = read_router(job.output_folder / ROUTER_NAME)
            self.document["keys"] = {way: score_router(held_out, router, way).to_json() for way in PASSED_KEYS}
            self.document["keys"]["static"] = self._static_score(job, self._start(job), held_out).to_json()
            self.write()

    def scratch(self) -> None:
        """Networks from scratch, radial and sequential."""
        options, rows = self.options, self.document.setdefault("scratch", [])
        known = {(row["network"], row["seed"]) for row in rows}
        sizes = {"blocks": 8, "mean_blocks": 4, "steps": options.scratch_steps}
        for seed in _numbers(options.seeds):
            for network in NETWORKS:
                if (network, seed) not in known:
                    rows.append(scratch_row(self.loaded, options.work, network, seed=seed, **sizes))
                    self.write()

    def steps(self) -> None:
        """Times of drafted steps, on the widened target as well."""
        self._by_width("steps", lambda loaded, *router: {"steps": step_rows(loaded, *router)})

    def decode(self) -> None:
        """F2 of cascades with and without the router, paired, on the widened target as well."""
        sizes = {"num_prompts": self.options.num_prompts, "new_tokens": self.options.new_tokens}
        self._by_width("decode", lambda loaded, *router: decoding_rows(loaded, *router, **sizes))

    def _by_width(self, part: str, measure: Callable[[LoadedModel, WeightsFile, DraftPolicy], dict[str, Any]]) -> None:
        rows, job = self.document.setdefault(part, []), self.job(self.options.decode_cost)
        for widen in _numbers(self.options.widen):
            if widen not in {row["widen"] for row in rows}:
                loaded = load_model(self.options.model, widen=widen)
                file = WeightsFile.of(job.output_folder / ROUTER_NAME, job.output_folder)
                policy = policy_along(self._start(job), graph_of(job, loaded.runtime.spec))
                summary = json.loads((job.output_folder / SUMMARY_NAME).read_text(encoding="utf-8"))
                router = {"steps": summary["settings"]["steps"], "cost": summary["held_out"]["cost"]}
                rows.append({"widen": widen, "router": router, **measure(loaded, file, policy)})
                self.write()


def held_out_continuations(loaded: LoadedModel, job: RouterJob, window: int) -> Continuations:
    """Prompts that nothing was chosen on, continued by the target as a job's texts are."""
    prompts = encode_prompts(evaluation_prompts(), loaded.tokenizer, job.prompt_tokens)
    tokens = torch.tensor([prompt.tokens for prompt in prompts if len(prompt.tokens) == job.prompt_tokens])
    return Continuations(loaded.runtime, tokens, job.new_tokens, window=window)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is missing, part by part."""
    parser = report_parser("radial", __doc__, "reports/radial")
    parser.add_argument("stages", nargs="*", default=STAGES, help=", ".join(STAGES) + "; default all")
    parser.add_argument("--model", default="llama")
    parser.add_argument("--work", type=Path, default=Path("autodraft-runs/radial"))
    parser.add_argument("--units", default="sub-layer")
    parser.add_argument("--costs", default="0.5,0.3,0.7", help="shares of the blocks")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--swaps", type=int, default=200, help="mutations of the best static policy")
    parser.add_argument("--sequences", type=int, default=384)
    parser.add_argument("--decode-cost", type=float, default=0.5)
    parser.add_argument("--widen", default="1,4", help="targets to decode with")
    parser.add_argument("--num-prompts", type=int, default=12)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--scratch-steps", type=int, default=300)
    parser.add_argument("--seeds", default="0")
    options = parser.parse_args(arguments)
    benchmark = Benchmark(options, arguments)
    for stage in options.stages:
        getattr(benchmark, stage)()


if __name__ == "__main__":
    main()
