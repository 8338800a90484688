"""The Markdown of `autodraft.benchmarks.sparsity`, made from its JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from autodraft.benchmarks.writing import device_line


def markdown(document: Mapping[str, Any]) -> str:
    """The report as a person reads it."""
    lines = [
        "# Removing sub-layers and refitting the rest",
        "",
        f"Model `{document['model']}`. {document['steps']} training steps of 1,024 tokens in all for each row that is"
        " refitted, those under the penalty included; held-out text: files of Python's standard library that neither"
        " the model nor the refit has seen.",
        "",
        f"Command: `{document['command']}`",
        "",
        "## A smaller target",
        "",
        "Each is a different model. Loss: nats per token of the text; KL: from the original's next-token distribution,"
        " nats per token; agreement: the same most likely token. Penalty alone is after the sub-layers went and before"
        " the refit; the matrices have learnt to do without them by then.",
        "",
        "| kept | way | loss | KL | agreement |",
        "|---" * 5 + "|",
        *_target_rows(document),
        "",
        "Which sub-layers stay (`A` attention, `M` MLP, `.` removed):",
        "",
        "| run | kept |",
        "|---|---|",
        *(f"| {name} | `{report['pattern']}` |" for name, report in document["trainings"].items()),
        "",
        "## A draft for the unchanged target",
        "",
        "Drafts of the same number of sub-layers, so of the same cost: untrained, the sub-layers chosen by block"
        " influence or by the penalty; and refitted. Agreement: teacher-forced top-1, in windows of four. Speedup:"
        " measured, chain of the predicted best length and stop threshold, over plain decoding of the same target, with"
        " a 95 % interval. The scheduler stops drafting where it does not pay.",
    ]
    for session in document["sessions"]:
        lines += _session(document["model"], session)
    return "\n".join(lines) + "\n"


def _target_rows(document: Mapping[str, Any]) -> Iterator[str]:
    trainings, shares = document["trainings"], document["shares"]
    before = trainings[f"target-{shares[0]:g}"]["qualities"]["before"]
    yield _row("1", "the original", before)
    ways = [
        ("one-shot, by block influence", "influence", "after removal"),
        ("one-shot, by block influence, refitted", "influence", "after refit"),
        ("penalty alone", "target", "after removal"),
        ("penalty, refitted", "target", "after refit"),
    ]
    for share in shares:
        for way, kind, stage in ways:
            yield _row(f"{share:g}", way, trainings[f"{kind}-{share:g}"]["qualities"][stage])


def _row(kept: str, way: str, quality: Mapping[str, float]) -> str:
    return f"| {kept} | {way} | {quality['loss']:.3f} | {quality['divergence']:.3f} | {quality['top1_agreement']:.1%} |"


def _session(model: str, session: Mapping[str, Any]) -> list[str]:
    name = model if session["widen"] == 1 else f"{model} widened {session['widen']} times"
    lines = [
        "",
        f"### `{name}`",
        "",
        f"{session['num_prompts']} held-out prompts, {session['new_tokens']} tokens each."
        f" {device_line(session['device'])}",
        "",
        "| draft | agreement | predicted cost | draft tokens | stop | speedup | 95 % | tokens/cycle | alpha | MiB |",
        "|---" * 10 + "|",
    ]
    for draft, row in session["drafts"].items():
        alpha = "-" if row["alpha"] is None else f"{row['alpha']:.3f}"
        lines.append(
            f"| {draft} | {row['top1_agreement']:.1%} | {row['cost']:.2f} | {row['num_draft_tokens']} |"
            f" {row['stop_threshold']:g} | {row['speedup']:.2f} | {row['ci_low']:.2f} to {row['ci_high']:.2f} |"
            f" {row['tokens_per_cycle']:.2f} | {alpha} | {row['extra_bytes'] / 2**20:.1f} |"
        )
    lines += ["", "| refitted over untrained by influence | ratio of speeds | 95 % |", "|---|---|---|"]
    for draft, ratio in session["gain"].items():
        lines.append(f"| {draft} | {ratio['value']:.2f} | {ratio['low']:.2f} to {ratio['high']:.2f} |")
    identical = all(row["identical"] for row in session["drafts"].values())
    lines += ["", f"Output {'identical to' if identical else '**different from**'} plain decoding for every draft."]
    return lines
