"""Decoding on a CUDA device beside every serious way to do the same, and whether the output stays the target's.

Knows nothing of parts or of tables. All methods of a session run interleaved on the same prompts. What transformers
compiles has a session of its own at the end, so that a compilation that fails or takes too long costs nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch

from autodraft.benchmarks.gpu_parts import Emit
from autodraft.benchmarks.gpu_steps import first_line
from autodraft.benchmarks.losslessness import check_identity
from autodraft.cascade import Cascade, DyTC, SelfDraft, SuffixAutomaton, Vertical
from autodraft.decoding import GREEDY, CascadeDecoder
from autodraft.measure.bench import bench_rows
from autodraft.measure.bench_report import OVERALL
from autodraft.measure.hf import HFBaseline, HFMode
from autodraft.measure.methods import METHODS, PROFILE, BenchContext, Ready, Unavailable, kind_of
from autodraft.measure.prompts import TokenPrompt, bundled_prompts, choose_prompts, encode_prompts, evaluation_prompts
from autodraft.measure.speedup import BASELINE, Session, measure_speedup
from autodraft.policy import DraftPolicy
from autodraft.profile import DraftProfile
from autodraft.runtime import LoadedModel

INT4_CHAIN, INT4_VERTICAL, INT4_DYTC = "int4-chain", "int4-automaton-vertical", "int4-automaton-dytc"
HF_COMPILED = "hf-generate-compiled"
_NAMED = ("prompt-lookup", "hf-generate", "int8-autoregressive", "int4-autoregressive")
_LONGEST_PROMPT = 384
_PROMPTS_A_ROW = 10


def int4_cascades(num_blocks: int) -> dict[str, Cascade]:
    """The whole target at 4 bits as a draft: alone, and with a suffix automaton below it.

    Eight tokens and no stop threshold: 4 bits agree with the target where it is unsure as well.
    """
    low = SelfDraft(policy=DraftPolicy.uniform(num_blocks, 4), num_draft_tokens=8)
    copies = SuffixAutomaton(num_draft_tokens=15)
    return {
        INT4_CHAIN: Cascade(drafts=(low,)),
        INT4_VERTICAL: Cascade(drafts=(low, copies), scheduler=Vertical()),
        INT4_DYTC: Cascade(drafts=(low, copies), scheduler=DyTC()),
    }


@dataclass
class _Contestants:
    """What is ready to decode, and why the rest is not."""

    ready: dict[str, Ready] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, make: Callable[[], Ready | Unavailable]) -> None:
        print(f"preparing {name}", file=sys.stderr)
        try:
            made = make()
        except Exception as error:  # what a build or a device lacks shows in many ways
            made = Unavailable(first_line(error))
        if isinstance(made, Ready):
            self.ready[name] = made
        else:
            self.unavailable[name] = made.reason
            print(f"{name} does not run: {made.reason}", file=sys.stderr)


def measure_decoding(loaded: LoadedModel, emit: Emit, *, num_prompts: int, new_tokens: int, seed: int = 0) -> None:
    """Rows of two sessions, each after 2, 4, 8, ... prompts and at its end; a later row holds what earlier ones do."""
    room = min(loaded.runtime.max_length - new_tokens - 1, _LONGEST_PROMPT)
    prompts = encode_prompts(choose_prompts(evaluation_prompts(), num_prompts, seed=seed), loaded.tokenizer, room)
    context = BenchContext(loaded, None, prompts[0].tokens, seed=seed)
    plain = _Contestants()
    plain.add(BASELINE, lambda: METHODS[BASELINE](context))
    for name, cascade in int4_cascades(loaded.runtime.spec.num_blocks).items():
        plain.add(name, partial(_cascade, context, cascade))
    for name in _NAMED:
        plain.add(name, partial(METHODS[name], context))
    _run_session("eager", plain, prompts, new_tokens, seed, emit)

    compiled = _Contestants({name: plain.ready[name] for name in (BASELINE, INT4_VERTICAL) if name in plain.ready})
    longest = max(prompts, key=lambda prompt: len(prompt.tokens))
    compiled.add(HF_COMPILED, lambda: compiled_hf(context.hf, longest.tokens, new_tokens))
    if HF_COMPILED in compiled.ready:
        _run_session("compiled", compiled, prompts, new_tokens, seed, emit)
    else:
        emit({"kind": "session", "session": HF_COMPILED, "left_out": compiled.unavailable[HF_COMPILED]})


def _cascade(context: BenchContext, cascade: Cascade) -> Ready | Unavailable:
    if 4 not in context.runtime.available_bits:
        return Unavailable(f"the {context.runtime.backend} backend does not run 4 bits faster than the target")
    return Ready(context.decoder(cascade), {"scheduler": cascade.scheduler.kind})


def compiled_hf(hf: HFBaseline, prompt: Sequence[int], new_tokens: int) -> Ready | Unavailable:
    """`generate` with a static cache, which transformers compiles by itself where it thinks that it can.

    Generates from `prompt`, which should be the longest, so that the cache never has to grow and be compiled for again.
    """
    options = {"cache_implementation": "static"}
    mode = HFMode(options, {**options, "forward": "torch.compile, the prompt apart"})
    graphs = _compiled_graphs()
    for _ in range(2):
        hf.run(prompt, new_tokens, **options)
    if _compiled_graphs() == graphs:
        return Unavailable("transformers did not compile the model on this device")
    return Ready(hf.contestant(mode), hf.settings("hf-generate", mode))


def _compiled_graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def _run_session(
    name: str, contestants: _Contestants, prompts: Sequence[TokenPrompt], new_tokens: int, seed: int, emit: Emit
) -> None:
    def report(session: Session) -> bool:
        count = len(session.runs[BASELINE])
        print(f"{name} session: {count} of {len(prompts)} prompts", file=sys.stderr)
        if count == len(prompts) or (count > 1 and count.bit_count() == 1):
            emit({"kind": "session", "session": name, **session_figures(session, contestants, new_tokens)})
        return False

    methods = {method: ready.contestant for method, ready in contestants.ready.items()}
    measure_speedup(methods, prompts, max_new_tokens=new_tokens, seed=seed, on_prompt=report)


def session_figures(session: Session, contestants: _Contestants, new_tokens: int) -> dict[str, Any]:
    """What a session has found so far, in the fields of a `BenchReport`, with ours over every published method."""
    kinds = {name: _kind(name) for name in contestants.ready}
    rows = bench_rows(session, list(kinds), sampled=False)
    return {
        "num_prompts": len(session.runs[BASELINE]),
        "new_tokens_per_prompt": new_tokens,
        "kinds": kinds,
        "rows": [asdict(row) for row in rows if row.task == OVERALL],
        "ratios": list(_ratios(session, kinds)),
        "settings": {name: dict(ready.settings) for name, ready in contestants.ready.items()},
        "unavailable": contestants.unavailable,
    }


def _kind(name: str) -> str:
    return "published" if name == HF_COMPILED else kind_of(name)


def _ratios(session: Session, kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    pairs = [
        (ours, other)
        for ours, kind in kinds.items()
        if kind == "ours"
        for other, other_kind in kinds.items()
        if other_kind == "published"
    ]
    found = [(ours, other, session.compare_pair(ours, other).speedup) for ours, other in pairs]
    return [
        {"ours": ours, "other": other, "ratio": ratio.value, "ci_low": ratio.low, "ci_high": ratio.high}
        for ours, other, ratio in found
    ]


def measure_identity(
    loaded: LoadedModel, emit: Emit, *, num_prompts: int, new_tokens: int, profile: DraftProfile | None = None
) -> None:
    """Greedy output beside autoregressive output: a row for every ten prompts and cascade.

    Of the profile's cascade; without one, of two fixed ones.
    """
    if profile is None:
        cascades = int4_cascades(loaded.runtime.spec.num_blocks)
        decoders = {name: CascadeDecoder(loaded.runtime, cascades[name]) for name in (INT4_VERTICAL, INT4_DYTC)}
    else:
        decoders = {PROFILE: CascadeDecoder.from_profile(loaded, profile)}
    prompts = choose_prompts(bundled_prompts(), num_prompts)
    for first in range(0, len(prompts), _PROMPTS_A_ROW):
        some = prompts[first : first + _PROMPTS_A_ROW]
        for result in check_identity(loaded, decoders, (GREEDY,), some, new_tokens, with_hf=False):
            emit({"kind": "identity", **asdict(result)})
        print(f"identity: {first + len(some)} of {len(prompts)} prompts", file=sys.stderr)
