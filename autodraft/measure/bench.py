"""`run_bench`: a profile beside every other way to decode the same prompts with the same target.

Knows nothing of search. All methods run interleaved on every prompt; speedups are over our own autoregressive
decoding, and greedy outputs are compared with its.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from autodraft.cascade import AUTOREGRESSIVE, Cascade, PromptLookup
from autodraft.measure.device import device_stamp
from autodraft.measure.hf import HFBaseline
from autodraft.measure.prompts import TokenPrompt, choose_prompts, encode_prompts, evaluation_prompts, read_prompts
from autodraft.measure.speedup import BASELINE, Contestant, Session, decoder_contestant, measure_speedup
from autodraft.profile import DraftProfile
from autodraft.runtime import LoadedModel

OVERALL = "overall"
_LONGEST_PROMPT = 384


@dataclass(frozen=True)
class BenchRow:
    """One method on one task (or overall).

    `ci_high` is None where one prompt gives no upper bound, `tokens_per_cycle` where a method does not say.
    """

    method: str
    task: str
    num_prompts: int
    tokens_per_s: float
    speedup: float
    ci_low: float
    ci_high: float | None
    tokens_per_cycle: float | None
    identical_to_greedy: bool
    num_identical: int
    prefill_ms: float


@dataclass(frozen=True)
class BenchReport:
    """What `autodraft bench` prints.

    Attributes:
        model: what the user asked for, with its widening.
        device: stamp of the device.
        new_tokens_per_prompt: generated per prompt.
        rows: one per method and task, `OVERALL` last.
        settings: what a method ran with.
        predicted_speedup: the formula's from the profile's own tau, c and v of this session; None without a profile.
    """

    model: str
    device: dict[str, Any]
    new_tokens_per_prompt: int
    rows: tuple[BenchRow, ...]
    settings: dict[str, dict[str, str]]
    predicted_speedup: float | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rows": [asdict(row) for row in self.rows]}

    def row(self, method: str, task: str = OVERALL) -> BenchRow:
        return next(row for row in self.rows if (row.method, row.task) == (method, task))


def run_bench(
    loaded: LoadedModel,
    profile: DraftProfile | None = None,
    *,
    prompts: str | os.PathLike[str] | None = None,
    tasks: tuple[str, ...] = (),
    num_prompts: int = 24,
    new_tokens_per_prompt: int = 64,
    repeats: int = 1,
    seed: int = 0,
    hf_baseline: bool = True,
    on_progress: Callable[[str], None] | None = None,
) -> BenchReport:
    """Measure a profile's cascade, autoregressive decoding, prompt lookup and Hugging Face's generate, paired."""
    say = on_progress or (lambda line: None)
    everything = evaluation_prompts() if prompts is None else read_prompts(prompts)
    chosen = choose_prompts(everything, num_prompts, tasks=tasks, seed=seed)
    room = min(loaded.runtime.max_length - new_tokens_per_prompt - 1, _LONGEST_PROMPT)
    encoded = encode_prompts(chosen, loaded.tokenizer, room)
    contestants, settings = _contestants(loaded, profile, encoded, hf_baseline, say)

    def report(session: Session) -> bool:
        done = len(session.runs[BASELINE])
        say(f"{done} of {len(encoded)} prompts")
        return False

    session = measure_speedup(
        contestants, encoded, max_new_tokens=new_tokens_per_prompt, repeats=repeats, seed=seed, on_prompt=report
    )
    rows = [_row(session, name, task) for name in contestants for task in (*session.categories, None)]
    stamp = device_stamp(loaded.runtime.device, loaded.runtime.backend)
    widened = f" (widened {loaded.widen} times)" if loaded.widen > 1 else ""
    predicted = session.figures("profile").predicted_speedup if "profile" in contestants else None
    return BenchReport(
        loaded.name + widened, stamp.model_dump(mode="json"), new_tokens_per_prompt, tuple(rows), settings, predicted
    )


def _contestants(
    loaded: LoadedModel,
    profile: DraftProfile | None,
    prompts: list[TokenPrompt],
    hf_baseline: bool,
    say: Callable[[str], None],
) -> tuple[dict[str, Contestant], dict[str, dict[str, str]]]:
    """All methods by name, and what they run with."""
    cascades: dict[str, Cascade] = {BASELINE: AUTOREGRESSIVE, "prompt-lookup": Cascade(drafts=(PromptLookup(),))}
    if profile is not None and not profile.cascade.is_autoregressive:
        spec = loaded.runtime.spec
        profile.check_target(loaded.fingerprint, spec.num_blocks, spec.num_kv_heads, loaded.widen)
        cascades = {"profile": profile.cascade, **cascades}
    eos = loaded.generation_eos
    contestants = {name: decoder_contestant(loaded.runtime, cascade, eos) for name, cascade in cascades.items()}
    settings: dict[str, dict[str, str]] = {}
    if hf_baseline:
        say("choosing the fastest attention implementation of transformers")
        baseline = HFBaseline(loaded, prompts[0].tokens)
        contestants |= baseline.contestants()
        settings = {name: baseline.settings(name) for name in baseline.contestants()}
    return contestants, settings


def _row(session: Session, name: str, task: str | None) -> BenchRow:
    comparison, figures = session.compare(name, task), session.figures(name, task)
    return BenchRow(
        name,
        task or OVERALL,
        comparison.num_prompts,
        comparison.tokens_per_s,
        comparison.speedup.value,
        comparison.speedup.low,
        comparison.speedup.high if math.isfinite(comparison.speedup.high) else None,
        figures.tokens_per_cycle if figures.histogram else None,
        comparison.identical,
        comparison.num_identical,
        1e3 * figures.prefill_s,
    )
