"""Are `dytc`'s estimates of acceptance reliable? Estimate against outcome of every verified token, for reports/.

Run as `python -m autodraft.benchmarks.reliability`. Knows nothing of how estimates are made: it looks at the tree that
the scheduler has grown, just before the scheduler learns what the target accepted. A token counts where its parent was
accepted, for that is what its estimate is about. The scheduler keeps what it learns from prompt to prompt, so its first
guesses count too.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autodraft.benchmarks.sampling import draft_policies
from autodraft.benchmarks.writing import command_line, device_line, report_parser, write_report
from autodraft.cascade import Cascade, Draft, DyTC, PromptLookup, SelfDraft, SuffixAutomaton, TokenRecycling
from autodraft.decoding import CascadeDecoder, SamplingConfig, ScheduledDrafter, TreeScheduler
from autodraft.decoding.acceptance import ModelEvidence
from autodraft.decoding.workbench import Workbench
from autodraft.measure.device import device_stamp
from autodraft.measure.prompts import TokenPrompt, choose_prompts, encode_prompts, evaluation_prompts
from autodraft.measure.reliability import reliability
from autodraft.measure.speedup import prompt_seed
from autodraft.report.files import report_file
from autodraft.report.reliability_plot import plot_reliability
from autodraft.runtime import LoadedModel, load_model

_LONGEST_PROMPT = 384
_FIRST, _OTHER, _REVIEWED = "first choice", "other choices", "others' tokens"


@dataclass(frozen=True)
class Judged:
    """A verified token whose parent was accepted.

    Attributes:
        draft: number of the draft that its estimate comes from.
        evidence: class of evidence, in that draft's numbering.
        estimate: estimated probability that it is accepted if its parent is.
        accepted: whether it was.
    """

    draft: int
    evidence: int
    estimate: float
    accepted: bool


class RecordingScheduler(TreeScheduler):
    """A scheduler that writes down what another one expected and what came of it, and changes nothing.

    Attributes:
        judged: in the order in which tokens were verified.
    """

    def __init__(self, scheduler: TreeScheduler) -> None:
        self._scheduler = scheduler
        self.judged: list[Judged] = []

    def grow(self, bench: Workbench) -> None:
        self._scheduler.grow(bench)

    def observe(self, bench: Workbench, accepted: Sequence[int], steps: float) -> None:
        growth = bench.growth
        self.judged += [
            Judged(growth.drafts[node], growth.evidence[node], growth.probs[node], was_accepted)
            for node, was_accepted in growth.outcomes(accepted)
        ]
        self._scheduler.observe(bench, accepted, steps)


def cascades(num_blocks: int) -> list[dict[str, Draft]]:
    """Drafts by name; several cascades, since one that holds everything uses little of most of it."""
    four_bits, skipping, _ = draft_policies(num_blocks).values()
    low = SelfDraft(policy=four_bits, num_draft_tokens=8)
    short = SelfDraft(policy=skipping, num_draft_tokens=8)
    lookup, automaton, recycling = PromptLookup(), SuffixAutomaton(), TokenRecycling()
    return [
        {"4 bits": low, "prompt lookup": lookup},
        {"4 bits, skipping": short, "suffix automaton": automaton},
        {"suffix automaton": automaton, "token recycling": recycling},
        {"4 bits": low, "4 bits, skipping": short, "prompt lookup": lookup, "token recycling": recycling},
    ]


def collect(
    loaded: LoadedModel,
    drafts: Mapping[str, Draft],
    prompts: Sequence[TokenPrompt],
    new_tokens: int,
    sampling: SamplingConfig,
) -> dict[str, list[Judged]]:
    """Decode `prompts` with these drafts under `dytc`; what was judged, by draft and kind of choice."""
    drafter = ScheduledDrafter(loaded.runtime, Cascade(drafts=tuple(drafts.values()), scheduler=DyTC()))
    recorder = drafter.scheduler = RecordingScheduler(drafter.scheduler)
    decoder = CascadeDecoder(loaded.runtime, drafter=drafter)
    for prompt in prompts:
        decoder.generate(
            prompt.tokens,
            max_new_tokens=new_tokens,
            sampling=sampling,
            eos=loaded.generation_eos,
            seed=prompt_seed(prompt.tokens, 0),
        )
    names = [(name, isinstance(draft, SelfDraft)) for name, draft in drafts.items()]
    groups: dict[str, list[Judged]] = defaultdict(list)
    for judged in recorder.judged:
        name, is_model = names[judged.draft]
        groups[f"{name}: {_choice(judged.evidence)}" if is_model else name].append(judged)
    return groups


def _choice(evidence: int) -> str:
    """What a self-draft's class of evidence says of the token (see `ModelEvidence`)."""
    if evidence == ModelEvidence.NOT_CHOSEN:
        return _REVIEWED
    return _FIRST if ModelEvidence.is_first(evidence) else _OTHER


def measure(
    loaded: LoadedModel, temperature: float, prompts: Sequence[TokenPrompt], new_tokens: int
) -> list[dict[str, Any]]:
    """One row of results per draft and kind of choice, over all cascades."""
    groups: dict[str, list[Judged]] = defaultdict(list)
    for drafts in cascades(loaded.runtime.spec.num_blocks):
        print(f"temperature {temperature:g}: {', '.join(drafts)}", file=sys.stderr)
        for name, judged in collect(loaded, drafts, prompts, new_tokens, SamplingConfig(temperature)).items():
            groups[name] += judged
    return [
        {
            "temperature": temperature,
            "draft": name,
            **asdict(reliability([token.estimate for token in judged], [token.accepted for token in judged])),
        }
        for name, judged in sorted(groups.items())
    ]


def markdown(document: Mapping[str, Any], image: str) -> str:
    """The report as a person reads it."""
    lines = [
        "# Reliability of estimated acceptance",
        "",
        f"Model `{document['model']}`, {document['num_prompts']} held-out prompts, {document['new_tokens']} tokens each"
        " by `dytc` with several cascades; all tokens that were verified after an accepted parent. Every estimate was"
        " made before the target had seen the token, the first ones before anything was known of the drafts.",
        "",
        "ECE: expected calibration error in ten bins, in brackets what perfectly calibrated estimates would show with"
        " so few tokens. Brier: mean squared error, in brackets that of always saying the mean. A token that a"
        " self-draft has reviewed counts as the self-draft's: its first choice, one of its other choices, or another's"
        " token that is none of these.",
        "",
        device_line(document["device"]),
        f"Command: `{document['command']}`",
        "",
        f"![Observed acceptance against estimates]({image})",
        "",
        "| temperature | draft | tokens | mean estimate | accepted | ECE | Brier |",
        "|---" * 7 + "|",
    ]
    for row in document["results"]:
        lines.append(
            f"| {row['temperature']:g} | {row['draft']} | {row['count']} | {row['mean_estimate']:.3f} |"
            f" {row['observed']:.3f} | {row['calibration_error']:.3f} ({row['chance_error']:.3f}) |"
            f" {row['brier']:.3f} ({row['base_brier']:.3f}) |"
        )
    lines += ["", "## Bins", "", "| temperature | draft | bin | tokens | mean estimate | accepted | 95 % |"]
    lines.append("|---" * 7 + "|")
    for row in document["results"]:
        for part in row["bins"]:
            lines.append(
                f"| {row['temperature']:g} | {row['draft']} | {part['low']:.1f} to {part['high']:.1f} |"
                f" {part['count']} | {part['mean_estimate']:.3f} | {part['observed']:.3f} |"
                f" {part['ci_low']:.3f} to {part['ci_high']:.3f} |"
            )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Decode at each temperature, and write JSON, Markdown and PNG."""
    parser = report_parser("reliability", __doc__, "reports/reliability")
    parser.add_argument("--model", default="llama")
    parser.add_argument("--widen", type=int, default=1)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7])
    parser.add_argument("--num-prompts", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=96)
    options = parser.parse_args(arguments)
    loaded = load_model(options.model, widen=options.widen)
    room = min(loaded.runtime.max_length - options.new_tokens, _LONGEST_PROMPT)
    prompts = encode_prompts(choose_prompts(evaluation_prompts(), options.num_prompts), loaded.tokenizer, room)
    document = {
        "model": options.model + (f" (widened {options.widen} times)" if options.widen > 1 else ""),
        "num_prompts": len(prompts),
        "new_tokens": options.new_tokens,
        "device": device_stamp(loaded.runtime.device, loaded.runtime.backend).model_dump(mode="json"),
        "command": command_line("reliability", arguments),
        "results": [
            row
            for temperature in options.temperatures
            for row in measure(loaded, temperature, prompts, options.new_tokens)
        ],
    }
    image = report_file(options.output, ".png")
    write_report(options.output, document, lambda written: markdown(written, image.name))
    plot_reliability(document, image)


if __name__ == "__main__":
    main()
