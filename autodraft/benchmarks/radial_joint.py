"""What refitting blocks together with a router gains, beside a static route whose blocks are refitted as well.

Run as `python -m autodraft.benchmarks.radial_joint`. All drafts start from the same static route, which was found for
this cost, and run at the same bit-width; what is refitted learns for as many steps on the same text. Trainings keep
checkpoints in the work folder and every finished part is written, so the program goes on where it was stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autodraft.benchmarks.radial import held_out_continuations
from autodraft.benchmarks.writing import command_line, device_line, report_parser, write_report
from autodraft.cascade import Cascade, DyTC, ModelDraft, RoutedDraft, SelfDraft, SuffixAutomaton
from autodraft.measure.agreement import AgreementMeter
from autodraft.measure.chains import best_chain
from autodraft.measure.device import device_stamp
from autodraft.measure.latency import measure_latency
from autodraft.measure.prompts import calibration_prompts, choose_prompts, encode_prompts, evaluation_prompts
from autodraft.measure.speedup import Session, speedup_of_cascades
from autodraft.policy import DraftPolicy
from autodraft.policy_text import decode_policy, encode_policy
from autodraft.profile_parts import WeightsFile
from autodraft.report.files import report_file
from autodraft.router_job import RouterJob
from autodraft.runtime import LoadedModel, Rows, load_model
from autodraft.runtime.draft_weights import kept_sub_layers
from autodraft.runtime.router_file import read_router
from autodraft.sparsify_job import SparsifyJob
from autodraft.training.radial.continuations import Continuations
from autodraft.training.radial.evaluate import RouteScore, node_costs, score, score_router
from autodraft.training.radial.routed_draft import best_routed_chain, trained_model
from autodraft.training.radial.run import CURVE_NAME, graph_of, is_trained, train_router
from autodraft.training.refitted_draft import WEIGHTS_NAME
from autodraft.training.sparsify import REPORT_NAME, sparsify

STATIC, STATIC_REFITTED, ROUTER, JOINT = "static", "static, refitted", "router", "router and blocks"
_PAIRS = ((JOINT, STATIC_REFITTED), (ROUTER, STATIC), (STATIC_REFITTED, STATIC), (JOINT, ROUTER))
_DRAFT_WINDOW, _LONGEST_PROMPT, _CONTEXT = 4, 384, 96


class Benchmark:
    """The document, and what adds to it."""

    def __init__(self, options: Any, arguments: Sequence[str] | None) -> None:
        self.options, path = options, report_file(options.output, ".json")
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.loaded = load_model(options.model)
        self.policy = self._start()
        settings = {"cost": options.cost, "bits": options.bits, "steps": options.steps, "policy": str(self.policy)}
        if known and any(known[name] != value for name, value in settings.items()):
            known = {}
        runtime = self.loaded.runtime
        self.document: dict[str, Any] = {"agreement": {}, "decode": [], **known, **settings} | {
            "model": options.model,
            "device": device_stamp(runtime.device, runtime.backend).model_dump(mode="json"),
            "command": command_line("radial_joint", arguments),
        }

    def _start(self) -> DraftPolicy:
        """The best static route of the cost at the bit-width: where all drafts start."""
        return decode_policy(self.options.start).at_bits(self.options.bits)

    def router_job(self, train_blocks: bool) -> RouterJob:
        """The training of a router, alone or with its blocks."""
        options = self.options
        return RouterJob.model_validate(
            {
                "model": options.model,
                "cost": options.cost,
                "bits": options.bits,
                "steps": options.steps,
                "start": options.start,
                "train_blocks": train_blocks,
                "output": options.work / f"{'joint' if train_blocks else 'router'}-{options.bits}",
            }
        )

    def sparsify_job(self) -> SparsifyJob:
        """The refit of the static route."""
        options = self.options
        return SparsifyJob(
            model=options.model, policy=encode_policy(self.policy), as_draft=True, bits=options.bits,
            steps=options.steps, output=options.work / f"static-{options.bits}",
        )  # fmt: skip

    def train(self) -> None:
        """Whatever is not trained yet."""
        job = self.sparsify_job()
        if not (job.output_folder / REPORT_NAME).is_file():
            print(f"training: {STATIC_REFITTED}", file=sys.stderr)
            sparsify(job)
        for train_blocks in (False, True):
            routed = self.router_job(train_blocks)
            if not is_trained(routed):
                print(f"training: {JOINT if train_blocks else ROUTER}", file=sys.stderr)
                train_router(routed, self.loaded, lambda _: None)

    def agreement(self) -> None:
        """Held-out agreement at the 1st, 2nd, .. drafted token, and cost, of all four."""
        held_out = held_out_continuations(self.loaded, self.router_job(False), _DRAFT_WINDOW)
        scores = {name: self._static_score(held_out, draft) for name, draft in self._static(self.loaded).items()}
        scores |= {name: self._routed_score(held_out, draft) for name, draft in self._routed(self.loaded).items()}
        self.document["agreement"] = {name: each.to_json() for name, each in scores.items()}
        curve = (self.router_job(True).output_folder / CURVE_NAME).read_text(encoding="utf-8").splitlines()
        self.document["curve"] = [json.loads(line) for line in curve]
        self.write()

    def _static_score(self, held_out: Continuations, draft: SelfDraft) -> RouteScore:
        runtime = self.loaded.runtime
        graph = graph_of(self.router_job(False), runtime.spec)
        plan, runs = runtime.plan(draft.policy, draft.weights), torch.zeros(graph.num_nodes, dtype=torch.long)
        runs[sorted(kept_sub_layers(draft.policy))] = 1

        def run(rows: Rows) -> tuple[Tensor, Tensor]:
            return runtime.forward(plan, held_out.cache, rows), runs.expand(len(rows), -1)

        return score(held_out, run, node_costs(runtime.spec, graph))

    def _routed_score(self, held_out: Continuations, draft: RoutedDraft) -> RouteScore:
        runtime = self.loaded.runtime
        blocks = runtime.plan(DraftPolicy.uniform(runtime.spec.num_blocks, draft.bits), draft.weights)
        router = read_router(draft.router.verified_path(), runtime.spec)
        return score_router(held_out, router, draft.passed_keys, blocks)

    def _static(self, loaded: LoadedModel) -> dict[str, SelfDraft]:
        folder = self.sparsify_job().output_folder
        weights = WeightsFile.of(folder / WEIGHTS_NAME, folder)
        return {STATIC: SelfDraft(policy=self.policy), STATIC_REFITTED: SelfDraft(policy=self.policy, weights=weights)}

    def _routed(self, loaded: LoadedModel) -> dict[str, RoutedDraft]:
        jobs = {ROUTER: self.router_job(False), JOINT: self.router_job(True)}
        return {name: trained_model(job) for name, job in jobs.items()}

    def decode(self) -> None:
        """F2 of chains and dynamic cascades, paired, on the widened target as well."""
        for widen in map(int, self.options.widen.split(",")):
            if widen not in {run["widen"] for run in self.document["decode"]}:
                loaded = self.loaded if widen == 1 else load_model(self.options.model, widen=widen)
                self.document["decode"].append({"widen": widen, **self._decoded(loaded)})
                self.write()

    def _decoded(self, loaded: LoadedModel) -> dict[str, Any]:
        models = self._chains(loaded)
        cascades = {f"chain, {name}": Cascade(drafts=(draft,)) for name, draft in models.items()}
        cascades |= {
            f"dytc, {name}": Cascade(drafts=(draft, SuffixAutomaton()), scheduler=DyTC())
            for name, draft in models.items()
        }
        prompts = encode_prompts(
            choose_prompts(evaluation_prompts(), self.options.num_prompts), loaded.tokenizer, _LONGEST_PROMPT
        )
        session = speedup_of_cascades(
            loaded.runtime, cascades, prompts, max_new_tokens=self.options.new_tokens, eos=loaded.generation_eos
        )
        pairs = [(f"{kind}, {one}", f"{kind}, {other}") for kind in ("chain", "dytc") for one, other in _PAIRS]
        return {
            "num_prompts": len(prompts),
            "new_tokens": self.options.new_tokens,
            "cascades": {name: _row(session, name, models[name.partition(", ")[2]]) for name in cascades},
            "pairs": [_pair(session, *pair) for pair in pairs],
        }

    def _chains(self, loaded: LoadedModel) -> dict[str, ModelDraft]:
        """Every draft with the length that is predicted to be best."""
        texts = [prompt.tokens for prompt in encode_prompts(calibration_prompts(), loaded.tokenizer, _CONTEXT)][:16]
        meter = AgreementMeter(loaded.runtime, texts, 32, eos=loaded.generation_eos)
        latency = measure_latency(loaded.runtime)
        chains: dict[str, ModelDraft] = {}
        for name, draft in self._static(loaded).items():
            found = meter.measure(draft.policy, weights=draft.weights)
            chains[name] = best_chain(draft.policy, found, latency, draft.weights).draft
        for name, routed in self._routed(loaded).items():
            chains[name] = best_routed_chain(loaded, routed).draft
        return chains

    def write(self) -> None:
        """JSON and Markdown."""
        write_report(self.options.output, self.document, markdown)


def _row(session: Session, name: str, draft: ModelDraft) -> dict[str, Any]:
    comparison, figures = session.compare(name), session.figures(name)
    return {
        "speedup": vars(comparison.speedup),
        "identical": comparison.identical,
        "alpha": figures.alpha,
        "cost": figures.cost,
        "tokens_per_cycle": figures.tokens_per_cycle,
        "num_draft_tokens": draft.num_draft_tokens,
    }


def _pair(session: Session, name: str, other: str) -> dict[str, Any]:
    return {"cascade": name, "over": other, "ratio": vars(session.compare_pair(name, other).speedup)}


def markdown(document: Mapping[str, Any]) -> str:
    """The report as a person reads it."""
    decoding = [line for run in document["decode"] for line in _lines(run)]
    return "\n".join([*_agreement_lines(document), *decoding]) + "\n"


def _agreement_lines(document: Mapping[str, Any]) -> list[str]:
    depths = range(_DRAFT_WINDOW)
    return [
        "# A router and its blocks, distilled together",
        "",
        f"Model `{document['model']}`; drafts at {document['bits']} bits that run {document['cost']:g} of the blocks'"
        f" weights on average. All start from the route `{document['policy']}`; whatever learns has"
        f" {document['steps']} steps. Router: on the blocks as they are. Router and blocks: both learn on the routes"
        " that are drawn.",
        device_line(document["device"]),
        f"Command: `{document['command']}`",
        "",
        "## Agreement on continuations of held-out prompts (predicted)",
        "",
        "| draft | cost | +- | " + " | ".join(f"drafted token {depth + 1}" for depth in depths) + " | loss |",
        "|---" * (len(depths) + 4) + "|",
        *(
            f"| {name} | {row['cost']:.3f} | {row['cost_deviation']:.3f} | "
            + " | ".join(f"{agreement:.3f}" for agreement in row["by_depth"])
            + f" | {row['loss']:.3f} |"
            for name, row in document["agreement"].items()
        ),
        "",
        "Router and blocks during the training, on continuations of held-out text (predicted); +-: standard deviation"
        " of the cost over tokens.",
        "",
        "| step | agreement | cost | +- |",
        "|---" * 4 + "|",
        *(
            f"| {row['step']} | {row['agreement']:.3f} | {row['cost']:.3f} | {row['cost_deviation']:.3f} |"
            for row in document["curve"]
        ),
    ]


def _lines(run: Mapping[str, Any]) -> list[str]:
    return [
        "",
        f"## Decoding, widened {run['widen']} times (measured)",
        "",
        f"{run['num_prompts']} held-out prompts, {run['new_tokens']} new tokens each, greedy, interleaved."
        " alpha: accepted over drafted tokens; c: a draft step over a target step, the router's own time included.",
        "",
        "| cascade | speedup | 95 % | alpha | c | tokens per cycle | drafted at most | output the target's own |",
        "|---" * 8 + "|",
        *(_cascade_line(name, row) for name, row in run["cascades"].items()),
        "",
        "| cascade | over | ratio | 95 % |",
        "|---" * 4 + "|",
        *(
            f"| {pair['cascade']} | {pair['over']} | {pair['ratio']['value']:.2f}"
            f" | {pair['ratio']['low']:.2f} to {pair['ratio']['high']:.2f} |"
            for pair in run["pairs"]
        ),
    ]


def _cascade_line(name: str, row: Mapping[str, Any]) -> str:
    speedup, depth = row["speedup"], "by the scheduler" if name.startswith("dytc") else row["num_draft_tokens"]
    alpha, cost = ("" if row[key] is None else f"{row[key]:.2f}" for key in ("alpha", "cost"))
    return (
        f"| {name} | {speedup['value']:.2f} | {speedup['low']:.2f} to {speedup['high']:.2f} | {alpha} | {cost}"
        f" | {row['tokens_per_cycle']:.2f} | {depth} | {'yes' if row['identical'] else 'no'} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is missing, part by part."""
    parser = report_parser("radial_joint", __doc__, "reports/radial-joint")
    parser.add_argument("--model", default="llama")
    parser.add_argument("--work", type=Path, default=Path("autodraft-runs/radial-joint"))
    parser.add_argument("--start", required=True, help='static route as a policy, such as "FF F. .F ... | head 16"')
    parser.add_argument("--cost", type=float, default=0.5, help="mean share of the blocks; that of the start")
    parser.add_argument("--bits", type=int, default=4, choices=(4, 8, 16))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--widen", default="1,4", help="targets to decode with")
    parser.add_argument("--num-prompts", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=64)
    options = parser.parse_args(arguments)
    benchmark = Benchmark(options, arguments)
    parts: tuple[Callable[[], None], ...] = (benchmark.train, benchmark.agreement, benchmark.decode)
    for part in parts:
        part()


if __name__ == "__main__":
    main()
