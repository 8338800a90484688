"""What refitted drafts add to a search: its profile without and with them, in one session, for reports/.

Run as `python -m autodraft.benchmarks.refitted_search WITHOUT.json WITH.json`: profiles of two searches that differ in
`--refitted` alone. Beside the profiles as they are, the first self-draft of each runs in the same arrangements, so that
a row and its partner differ in the draft alone. Prompts are held out from both searches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autodraft.benchmarks.writing import command_line, device_line, report_parser, write_report
from autodraft.cascade import Cascade, SelfDraft
from autodraft.decoding import ScheduledDrafter
from autodraft.errors import InputError
from autodraft.measure.device import device_stamp
from autodraft.measure.prompts import choose_prompts, encode_prompts, evaluation_prompts
from autodraft.measure.speedup import Session, speedup_of_cascades
from autodraft.profile import DraftProfile
from autodraft.runtime import LoadedModel, load_model
from autodraft.search.codec import describe
from autodraft.search.compose import ComposeOptions, arrangements

WITHOUT, WITH = "without", "with"
PROFILE = "profile"
_LONGEST_PROMPT = 384


def arranged(profile: DraftProfile) -> dict[str, Cascade]:
    """The profile's cascade, and its first self-draft alone and in every arrangement of one model, by name."""
    draft = next((each for each in profile.cascade.drafts if isinstance(each, SelfDraft)), None)
    if draft is None:
        raise InputError("a profile without a self-draft has nothing that could be refitted")
    alone = Cascade(drafts=(draft,))
    found = {PROFILE: profile.cascade, "chain": alone}
    for cascade in arrangements(alone, None, ComposeOptions()):
        names = ["draft" if isinstance(each, SelfDraft) else each.kind for each in cascade.drafts]
        found[f"{cascade.scheduler.kind}: {', '.join(names)}"] = cascade
    return found


def measured(
    loaded: LoadedModel, profiles: Mapping[str, DraftProfile], num_prompts: int, new_tokens: int, repeats: int
) -> dict[str, Any]:
    """Every arrangement of both profiles in one session, and the ratios of partners."""
    room = min(loaded.runtime.max_length - new_tokens - 1, _LONGEST_PROMPT)
    prompts = encode_prompts(choose_prompts(evaluation_prompts(), num_prompts), loaded.tokenizer, room)
    cascades = {
        f"{side} | {name}": cascade for side, profile in profiles.items() for name, cascade in arranged(profile).items()
    }
    priors = {profile.cascade: profile.priors for profile in profiles.values()}
    drafters = {
        name: ScheduledDrafter(loaded.runtime, cascade, priors.get(cascade)) for name, cascade in cascades.items()
    }
    session = speedup_of_cascades(
        loaded.runtime, cascades, prompts, drafters=drafters, max_new_tokens=new_tokens, repeats=repeats,
        eos=loaded.generation_eos,
    )  # fmt: skip
    rows = {name: _row(loaded, session, name, cascade) for name, cascade in cascades.items()}
    shared = [name for name in arranged(profiles[WITHOUT]) if f"{WITH} | {name}" in rows]
    ratios = {name: vars(session.compare_pair(f"{WITH} | {name}", f"{WITHOUT} | {name}").speedup) for name in shared}
    return {"num_prompts": len(prompts), "rows": rows, "ratios": ratios}


def _row(loaded: LoadedModel, session: Session, name: str, cascade: Cascade) -> dict[str, Any]:
    comparison, figures = session.compare(name), session.figures(name)
    plans = [loaded.runtime.plan(each.policy, each.weights) for each in cascade.drafts if isinstance(each, SelfDraft)]
    return {
        "cascade": describe(cascade),
        "speedup": comparison.speedup.value,
        "ci_low": comparison.speedup.low,
        "ci_high": comparison.speedup.high,
        "tokens_per_s": comparison.tokens_per_s,
        "tokens_per_cycle": figures.tokens_per_cycle,
        "extra_bytes": sum(plan.extra_bytes for plan in plans),
        "identical": comparison.identical,
    }


def markdown(document: Mapping[str, Any]) -> str:
    """The report as a person reads it."""
    rows, ratios = document["rows"], document["ratios"]
    lines = [
        f"# A search with refitted drafts: {document['model']}",
        "",
        f"Two searches that differ in `--refitted` alone, their profiles in one session: {document['num_prompts']}"
        f" held-out prompts, {document['new_tokens']} tokens each, {document['repeats']} rounds, interleaved.",
        device_line(document["device"]),
        f"Command: `{document['command']}`",
        "",
        *(f"- search {side}: `{command}`" for side, command in document["searches"].items()),
        "",
        "Measured speedup over plain decoding, with a 95 % interval. `profile`: the cascade as the search exported it;"
        " the other rows are the first self-draft of each profile in the same arrangement. Ratio: speed with refitted"
        " drafts over speed without, paired.",
        "",
        "| arrangement | without | with | ratio | 95 % |",
        "|---" * 5 + "|",
    ]
    for name, ratio in ratios.items():
        without, refitted = (_speedup(rows[f"{side} | {name}"]) for side in (WITHOUT, WITH))
        interval = f"{ratio['low']:.2f} to {ratio['high']:.2f}"
        lines.append(f"| {name} | {without} | {refitted} | {ratio['value']:.2f} | {interval} |")
    lines += ["", "| profile | cascade | tokens/cycle | extra MiB |", "|---" * 4 + "|"]
    for side in (WITHOUT, WITH):
        row = rows[f"{side} | {PROFILE}"]
        memory = f"{row['extra_bytes'] / 2**20:.1f}"
        lines.append(f"| {side} | `{row['cascade']}` | {row['tokens_per_cycle']:.2f} | {memory} |")
    identical = all(row["identical"] for row in rows.values())
    lines += ["", f"Output {'identical to' if identical else '**different from**'} plain decoding in every row."]
    return "\n".join(lines) + "\n"


def _speedup(row: Mapping[str, Any]) -> str:
    return f"{row['speedup']:.2f} ({row['ci_low']:.2f} to {row['ci_high']:.2f})"


def _command(profile: DraftProfile) -> str:
    """What made a profile, without the place where the program lies."""
    program, _, rest = profile.provenance.command.partition(" ")
    return f"{Path(program).name} {rest}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both profiles, and write JSON and Markdown."""
    parser = report_parser("refitted_search", __doc__, "reports/refitted-search")
    parser.add_argument("without", type=Path, help="profile of the search without --refitted")
    parser.add_argument("refitted", type=Path, help="profile of the search with it")
    parser.add_argument("--num-prompts", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args(arguments)
    profiles = {WITHOUT: DraftProfile.load(options.without), WITH: DraftProfile.load(options.refitted)}
    target = profiles[WITHOUT].target
    loaded = load_model(target.name, widen=target.widen, dtype=target.dtype)
    spec = loaded.runtime.spec
    for profile in profiles.values():
        profile.check_target(loaded.fingerprint, spec.num_blocks, spec.num_kv_heads, loaded.widen)
    document = {
        "model": loaded.name,
        "command": command_line("refitted_search", arguments),
        "searches": {side: _command(profile) for side, profile in profiles.items()},
        "device": device_stamp(loaded.runtime.device, loaded.runtime.backend).model_dump(mode="json"),
        "new_tokens": options.new_tokens,
        "repeats": options.repeats,
        **measured(loaded, profiles, options.num_prompts, options.new_tokens, options.repeats),
    }
    write_report(options.output, document, markdown)


if __name__ == "__main__":
    main()
