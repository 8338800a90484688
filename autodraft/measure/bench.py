"""`run_bench`: a profile beside every other way to decode the same prompts with the same target.

Knows nothing of search, and nothing of how a method works (`autodraft.measure.methods`). All methods run interleaved on
every prompt; speedups are over our own autoregressive decoding, and outputs are compared with its.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence

from autodraft.decoding import SamplingConfig
from autodraft.errors import InputError
from autodraft.measure.bench_report import OVERALL, BenchReport, BenchRow, Ratio, RunnerUp
from autodraft.measure.device import device_stamp
from autodraft.measure.hf import HF_METHODS
from autodraft.measure.methods import LOSSY, METHODS, PROFILE, PUBLISHED, BenchContext, Ready, Unavailable, kind_of
from autodraft.measure.prompts import choose_prompts, encode_prompts, evaluation_prompts, read_prompts
from autodraft.measure.speedup import BASELINE, Session, measure_speedup
from autodraft.measure.statistics import Interval
from autodraft.profile import DraftProfile
from autodraft.runtime import LoadedModel

_LONGEST_PROMPT = 384


def run_bench(
    loaded: LoadedModel,
    profile: DraftProfile | None = None,
    *,
    methods: Sequence[str] | None = None,
    prompts: str | os.PathLike[str] | None = None,
    tasks: tuple[str, ...] = (),
    num_prompts: int = 24,
    new_tokens_per_prompt: int = 64,
    repeats: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> BenchReport:
    """Measure methods (all that can run, unless named) on the same prompts, paired and interleaved."""
    say = on_progress or (lambda line: None)
    if profile is not None:
        spec = loaded.runtime.spec
        profile.check_target(loaded.fingerprint, spec.num_blocks, spec.num_kv_heads, loaded.widen)
    names = chosen_methods(methods)
    everything = evaluation_prompts() if prompts is None else read_prompts(prompts)
    chosen = choose_prompts(everything, num_prompts, tasks=tasks, seed=seed)
    room = min(loaded.runtime.max_length - new_tokens_per_prompt - 1, _LONGEST_PROMPT)
    encoded = encode_prompts(chosen, loaded.tokenizer, room)
    context = BenchContext(loaded, profile, encoded[0].tokens, SamplingConfig(temperature=temperature), seed)
    ready, unavailable = _prepared(context, names, say)

    def report(session: Session) -> bool:
        say(f"{len(session.runs[BASELINE])} of {len(encoded)} prompts")
        return False

    contestants = {name: method.contestant for name, method in ready.items()}
    session = measure_speedup(
        contestants, encoded, max_new_tokens=new_tokens_per_prompt, repeats=repeats, seed=seed, on_prompt=report
    )
    return BenchReport(
        model=loaded.name + (f" (widened {loaded.widen} times)" if loaded.widen > 1 else ""),
        device=device_stamp(loaded.runtime.device, loaded.runtime.backend).model_dump(mode="json"),
        num_prompts=len(encoded),
        new_tokens_per_prompt=new_tokens_per_prompt,
        repeats=repeats,
        temperature=temperature,
        seed=seed,
        rows=bench_rows(session, list(ready), sampled=temperature > 0),
        kinds={name: kind_of(name) for name in ready},
        settings={name: dict(method.settings) for name, method in ready.items() if method.settings},
        unavailable=unavailable,
        runner_up=runner_up(session, list(ready)),
        predicted_speedup=session.figures(PROFILE).predicted_speedup if PROFILE in ready else None,
    )


def chosen_methods(methods: Sequence[str] | None = None, *, hf: bool = True) -> list[str]:
    """Names in the order of the registry, the baseline always among them, without those of transformers if not `hf`.

    All of them where none is given; `InputError` for an unknown one.
    """
    wanted = set(METHODS if methods is None else methods)
    if unknown := sorted(wanted - set(METHODS)):
        raise InputError(f"no method {', '.join(unknown)}; there are {', '.join(METHODS)}")
    wanted = {BASELINE, *(name for name in wanted if hf or name not in HF_METHODS)}
    return [name for name in METHODS if name in wanted]


def _prepared(
    context: BenchContext, names: Sequence[str], say: Callable[[str], None]
) -> tuple[dict[str, Ready], dict[str, str]]:
    """The methods that can run, and why the others cannot."""
    ready: dict[str, Ready] = {}
    unavailable: dict[str, str] = {}
    for name in names:
        say(f"preparing {name}")
        method = METHODS[name](context)
        if isinstance(method, Unavailable):
            unavailable[name] = method.reason
            say(f"{name} does not run: {method.reason}")
        else:
            ready[name] = method
    return ready, unavailable


def bench_rows(session: Session, names: Sequence[str], *, sampled: bool) -> tuple[BenchRow, ...]:
    """One row per method and task, overall last."""
    return tuple(_row(session, name, task, sampled) for name in names for task in (*session.categories, None))


def _row(session: Session, name: str, task: str | None, sampled: bool) -> BenchRow:
    comparison, figures = session.compare(name, task), session.figures(name, task)
    cycles, drafts = bool(figures.histogram), figures.num_draft_tokens > 0
    own_generator = sampled and (name in LOSSY or name in HF_METHODS)
    return BenchRow(
        method=name,
        task=task or OVERALL,
        num_prompts=comparison.num_prompts,
        tokens_per_s=comparison.tokens_per_s,
        speedup=comparison.speedup.value,
        ci_low=comparison.speedup.low,
        ci_high=_finite(comparison.speedup.high),
        ratio_of_means=session.ratio_of_means(name, task),
        tokens_per_cycle=figures.tokens_per_cycle if cycles else None,
        histogram=figures.histogram if cycles else None,
        num_draft_tokens=figures.num_draft_tokens if cycles else None,
        alpha=figures.alpha if drafts else None,
        alpha_per_draft=figures.alpha_per_draft if drafts else None,
        cost=figures.cost if drafts else None,
        verify_cost=figures.verify_cost if cycles else None,
        shares=figures.shares if cycles else None,
        num_identical=None if own_generator else comparison.num_identical,
        prefill_ms=1e3 * figures.prefill_s,
    )


def runner_up(session: Session, names: Sequence[str]) -> RunnerUp | None:
    """The profile (or else the fastest of ours) against every other lossless method."""
    rates = {name: session.compare(name).tokens_per_s for name in names if name not in LOSSY}
    ours = {name: rate for name, rate in rates.items() if kind_of(name) == "ours"}
    if not ours:
        return None
    best = PROFILE if PROFILE in ours else max(ours, key=lambda name: ours[name])
    ratios = [_ratio(name, session.compare_pair(best, name).speedup) for name in rates if name != best]
    ratios.sort(key=lambda ratio: ratio.ratio)
    published = next((ratio for ratio in ratios if ratio.method in PUBLISHED), None)
    return RunnerUp(best, ratios[0], published, tuple(ratios))


def _ratio(name: str, interval: Interval) -> Ratio:
    return Ratio(name, kind_of(name), interval.value, interval.low, _finite(interval.high))


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None
