"""What does a target gain from weights in 12 bits? Steps, plain decoding and a cascade both ways, for reports/.

Run as `python -m autodraft.benchmarks.coded_weights PROFILE.json`. The target is loaded with coded weights and without
in one process, and everything is run in turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autodraft.benchmarks.writing import command_line, device_line, report_parser, with_interval, write_report
from autodraft.cascade import AUTOREGRESSIVE
from autodraft.decoding import SamplingConfig
from autodraft.errors import InputError
from autodraft.measure.device import device_stamp
from autodraft.measure.prompts import choose_prompts, encode_prompts, evaluation_prompts
from autodraft.measure.speedup import BASELINE, Session, decoder_contestant, measure_speedup
from autodraft.profile import DraftProfile
from autodraft.runtime import LoadedModel, Rows, load_model
from autodraft.runtime.native_build import load_library

PLAIN, CODED = "plain", "coded"
ROWS = (1, 2, 4, 8, 12, 16)
_CONTEXT, _LONGEST_PROMPT = 200, 384
_PAUSE_S = 2e-3
"""After which the threads of the other runtime no longer wait for work at the cost of a processor."""


def measure_steps(kinds: Mapping[str, LoadedModel], rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of a verification after another one, by its rows, and the median ratio of the two in one round."""
    caches = {}
    for name, loaded in kinds.items():
        caches[name] = loaded.runtime.new_cache()
        loaded.runtime.prefill(caches[name], [token % loaded.runtime.spec.vocab_size for token in range(_CONTEXT)])
    steps = []
    for count in ROWS:
        ms: dict[str, list[float]] = {name: [] for name in kinds}
        for number in range(rounds + 1):
            for name, loaded in kinds.items():
                time.sleep(_PAUSE_S)
                loaded.runtime.choose(caches[name], Rows.chain([1] * count, _CONTEXT))
                started = time.perf_counter()
                loaded.runtime.choose(caches[name], Rows.chain([1] * count, _CONTEXT))
                if number:  # the first round warms up
                    ms[name].append((time.perf_counter() - started) * 1e3)
        ratio = statistics.median(coded / plain for coded, plain in zip(ms[CODED], ms[PLAIN], strict=True))
        steps.append({"rows": count, **{name: statistics.median(each) for name, each in ms.items()}, "ratio": ratio})
    return steps


def measure_decoding(
    kinds: Mapping[str, LoadedModel], profile: DraftProfile, num_prompts: int, new_tokens: int, repeats: int
) -> dict[str, Any]:
    """Plain decoding and the profile's cascade, at its temperature, both ways in one session."""
    loaded = kinds[PLAIN]
    room = min(loaded.runtime.max_length - new_tokens - 1, _LONGEST_PROMPT)
    prompts = encode_prompts(choose_prompts(evaluation_prompts(), num_prompts), loaded.tokenizer, room)
    sampling = SamplingConfig(temperature=profile.measurement.temperature if profile.measurement else 0.0)
    cascades = {"decoding": (AUTOREGRESSIVE, None), "profile": (profile.cascade, profile.priors)}
    contestants = {
        BASELINE if (name, kind) == ("decoding", PLAIN) else f"{name}, {kind}": decoder_contestant(
            each.runtime, cascade, each.generation_eos, priors=priors, sampling=sampling
        )
        for name, (cascade, priors) in cascades.items()
        for kind, each in kinds.items()
    }
    session = measure_speedup(contestants, prompts, max_new_tokens=new_tokens, repeats=repeats)
    gains = {
        "decoding": vars(session.compare(f"decoding, {CODED}").speedup),
        "profile": vars(session.compare_pair(f"profile, {CODED}", f"profile, {PLAIN}").speedup),
    }
    rows = [_row(session, name) for name in contestants if name != BASELINE]
    return {"num_prompts": len(prompts), "temperature": sampling.temperature, "rows": rows, "gains": gains}


def _row(session: Session, name: str) -> dict[str, Any]:
    comparison = session.compare(name)
    return {
        "method": name,
        "tokens_per_s": comparison.tokens_per_s,
        "baseline_tokens_per_s": comparison.baseline_tokens_per_s,
        "speedup": vars(comparison.speedup),
        "identical": comparison.identical,
    }


def markdown(document: Mapping[str, Any]) -> str:
    """The report as a person reads it."""
    share = document["matrix_bytes"][CODED] / document["matrix_bytes"][PLAIN]
    lines = ["# Weights in 12 bits", "", device_line(document["device"]), f"Command: `{document['command']}`", ""]
    lines += [
        f"`{document['model']}`, widened {document['widen']} times: {document['matrix_bytes'][PLAIN] / 1e6:.0f} MB of"
        f" bfloat16 matrices, {share:.0%} of it when coded. Every number is the same.",
        "",
        "## Verification, ms",
        "",
        "| rows | plain | coded | ratio |",
        "|---" * 4 + "|",
        *(f"| {s['rows']} | {s[PLAIN]:.2f} | {s[CODED]:.2f} | {s['ratio']:.2f} |" for s in document["steps"]),
        "",
        "## Decoding",
        "",
        f"{document['num_prompts']} held-out prompts, {document['new_tokens']} tokens each, temperature"
        f" {document['temperature']:g}, {document['repeats']} round(s), interleaved; over plain decoding with plain"
        f" weights ({document['rows'][0]['baseline_tokens_per_s']:.1f} tokens/s), with a 95 % interval.",
        "",
        "| method | tokens/s | speedup | output |",
        "|---" * 4 + "|",
    ]
    for row in document["rows"]:
        same = "the same" if row["identical"] else "**different**"
        lines.append(f"| {row['method']} | {row['tokens_per_s']:.1f} | {with_interval(row['speedup'])} | {same} |")
    gains = document["gains"]
    lines += [
        "",
        f"Gained by codes, paired: plain decoding {with_interval(gains['decoding'])}, the profile's cascade"
        f" {with_interval(gains['profile'])}.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write JSON and Markdown."""
    parser = report_parser("coded_weights", __doc__, "reports/coded-weights")
    parser.add_argument("profile", type=Path, help="of a target in bfloat16")
    parser.add_argument("--rounds", type=int, default=30, help="of steps")
    parser.add_argument("--num-prompts", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args(arguments)
    if not load_library().reads_codes():
        raise InputError("the engine of this processor does not read coded weights")
    profile = DraftProfile.load(options.profile)
    target = profile.target
    kinds = {
        kind: load_model(target.name, widen=target.widen, dtype=target.dtype, device="cpu", coded=kind == CODED)
        for kind in (PLAIN, CODED)
    }
    loaded = kinds[PLAIN]
    profile.check_target(
        loaded.fingerprint, loaded.runtime.spec.num_blocks, loaded.runtime.spec.num_kv_heads, loaded.widen
    )
    document = {
        "model": loaded.name,
        "widen": loaded.widen,
        "command": command_line("coded_weights", arguments),
        "device": device_stamp(loaded.runtime.device, loaded.runtime.backend).model_dump(mode="json"),
        "matrix_bytes": {kind: each.runtime.target.payload.matrix_bytes for kind, each in kinds.items()},
        "new_tokens": options.new_tokens,
        "repeats": options.repeats,
        "steps": measure_steps(kinds, options.rounds),
        **measure_decoding(kinds, profile, options.num_prompts, options.new_tokens, options.repeats),
    }
    write_report(options.output, document, markdown)


if __name__ == "__main__":
    main()
