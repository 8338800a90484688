"""A `DraftProfile` as a few lines and tables for the terminal.

Knows nothing of files or devices. Every figure is shown with its fidelity.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autodraft.cascade import Draft, PromptLookup, RoutedDraft, Scheduler, SelfDraft, SuffixAutomaton, TokenRecycling
from autodraft.profile import DraftProfile, Figures, Interval
from autodraft.report.layout import plain_table


def interval_text(speedup: Interval | None) -> str:
    """`1.62x (1.51 to 1.74)`, without the interval where a single prompt gives none."""
    if speedup is None:
        return ""
    if speedup.ci_high is None:
        return f"{speedup.median:.2f}x"
    return f"{speedup.median:.2f}x ({speedup.ci_low:.2f} to {speedup.ci_high:.2f})"


def one_line(profile: DraftProfile) -> str:
    """What the profile says, in one line."""
    if profile.conclusion == "autoregressive":
        return f"autoregressive: no cascade was faster for {profile.target.name} on {profile.device.name}"
    if profile.measurement is not None:
        measured = profile.measurement
        sizes = f"{measured.num_prompts} prompts, {measured.new_tokens_per_prompt} tokens each"
        return f"speculate: {interval_text(measured.speedup)} over autoregressive, measured ({sizes})"
    if profile.predicted is not None:
        return f"speculate: {profile.predicted.speedup:.2f}x over autoregressive, predicted, not measured yet"
    return "speculate: not measured yet"


def profile_renderable(profile: DraftProfile) -> RenderableType:
    """Everything worth reading in a profile."""
    parts: list[RenderableType] = [_facts(profile), _cascade(profile)]
    if profile.measurement is not None:
        parts.append(_measurement(profile))
    if profile.baselines:
        parts.append(_baselines(profile))
    return Group(*(line for part in parts for line in (part, Text(""))))


def _facts(profile: DraftProfile) -> Table:
    target, device, provenance = profile.target, profile.device, profile.provenance
    widened = f", widened {target.widen} times" if target.widen > 1 else ""
    facts = {
        "conclusion": one_line(profile),
        "target": f"{target.name} ({target.family}, {target.dtype}{widened})",
        "fingerprint": f"config {target.fingerprint.config[:12]}, weights {target.fingerprint.weights[:12]}",
        "device": f"{device.name} ({device.kind}, {device.threads or '?'} threads, {device.backend} kernels)",
        "study": f"{provenance.study}, trial {provenance.trial}, seed {provenance.seed} in {provenance.storage}",
        "created": f"{provenance.created:%Y-%m-%d %H:%M} UTC by {provenance.command}",
    }
    if profile.predicted is not None:
        predicted = profile.predicted
        facts["predicted"] = f"{predicted.speedup:.2f}x, {predicted.tokens_per_cycle:.2f} tokens per cycle"
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def _cascade(profile: DraftProfile) -> Table:
    cascade = profile.rejected or profile.cascade
    name = "rejected cascade" if profile.rejected else "cascade"
    title = f"{name}, scheduled by {scheduler_text(cascade.scheduler)}" if cascade.drafts else name
    table = plain_table("draft", "settings", "alpha", "cost", title=title, wrapping="settings")
    priors = profile.priors.drafts or (None,) * len(cascade.drafts)
    for draft, prior in zip(cascade.drafts, priors, strict=True):
        figures = (f"{prior.alpha:.3f}", f"{prior.cost:.3f}") if prior else ("", "")
        table.add_row(draft.kind, "\n".join(_settings(draft)), *figures)
    return table


def _settings(draft: Draft) -> Iterator[str]:
    match draft:
        case PromptLookup():
            yield f"{draft.num_draft_tokens} tokens after a match of {draft.min_ngram} to {draft.max_ngram}"
        case SuffixAutomaton():
            yield f"{draft.num_draft_tokens} tokens after the longest match, {draft.min_match} at least"
        case TokenRecycling():
            yield f"{draft.num_successors} successors of each token, {draft.num_draft_tokens} deep"
        case SelfDraft():
            policy = draft.policy
            skipped = f"{policy.num_skipped} of {2 * len(policy.blocks)} sub-layers skipped"
            yield f"{skipped}, {policy.mean_bits:.1f} bits on average"
            yield f"{draft.num_draft_tokens} deep, stops below probability {draft.stop_threshold:g}"
            yield str(policy)
            if draft.weights is not None:
                yield f"weights of its own in {draft.weights.file}"
        case RoutedDraft():
            yield f"router {draft.router.file}, blocks at {draft.bits} bits, keys of passed blocks {draft.passed_keys}"
            if draft.weights is not None:
                yield f"weights of its own in {draft.weights.file}"
            yield f"{draft.num_draft_tokens} deep, stops below probability {draft.stop_threshold:g}"


def scheduler_text(scheduler: Scheduler) -> str:
    """A scheduler and its settings: `dytc (ema_weight 0.7, window 20, ...)`."""
    settings = ", ".join(f"{name} {value:g}" for name, value in scheduler.model_dump(exclude={"kind"}).items())
    return f"{scheduler.kind} ({settings})" if settings else scheduler.kind


def _measurement(profile: DraftProfile) -> Table:
    at = profile.measurement.temperature if profile.measurement is not None else 0.0
    title = f"measured at temperature {at:g}" if at else "measured"
    table = plain_table("task", "speedup", "tokens/s", "baseline", "tokens/cycle", "prompts", title=title)

    def add(task: str, figures: Figures) -> None:
        table.add_row(
            task,
            interval_text(figures.speedup),
            f"{figures.tokens_per_s:.1f}",
            f"{figures.baseline_tokens_per_s:.1f}",
            f"{figures.tokens_per_cycle:.2f}",
            str(figures.num_prompts),
        )

    if profile.measurement is not None:
        for each in profile.measurement.tasks:
            add(each.task, each)
        add("overall", profile.measurement)
    return table


def _baselines(profile: DraftProfile) -> Table:
    table = plain_table(
        "baseline", "tokens/s", "over autoregressive", "settings", title="baselines, measured", wrapping="settings"
    )
    for baseline in profile.baselines:
        settings = ", ".join(f"{name}={value}" for name, value in baseline.settings.items())
        table.add_row(baseline.name, f"{baseline.tokens_per_s:.1f}", interval_text(baseline.speedup), settings)
    return table
