"""What do byte planes cost, and what do they save? Steps, memory and agreement with and without, for reports/.

Run as `python -m autodraft.benchmarks.byte_planes`. The same float16 target is loaded both ways in one process, and
steps are timed in turns. Drafts have all sub-layers at one bit-width and the head of the target, which has no planes.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from autodraft.benchmarks.writing import command_line, device_line, report_parser, write_report
from autodraft.measure.agreement import AgreementMeter
from autodraft.measure.device import device_stamp
from autodraft.measure.prompts import calibration_prompts, encode_prompts
from autodraft.policy import FULL_BITS, DraftPolicy
from autodraft.runtime import DraftPlan, KVCache, LoadedModel, Rows, load_model

ROWS = (1, 8, 16)
BITS = (16, 8, 4)
_PROMPT_TOKENS, _NEW_TOKENS = 64, 32


def measure(kinds: Mapping[bool, LoadedModel], rounds: int, num_prompts: int) -> list[dict[str, Any]]:
    """One row for the target and for each full-depth draft, by whether it is in planes."""
    targets: dict[tuple[bool, int], tuple[LoadedModel, DraftPlan, KVCache]] = {}
    for planes, loaded in kinds.items():
        for bits in BITS:
            plan = loaded.runtime.plan(DraftPolicy.uniform(loaded.runtime.spec.num_blocks, bits, FULL_BITS))
            cache = loaded.runtime.new_cache()
            loaded.runtime.prefill(cache, list(range(1, 1 + _PROMPT_TOKENS)))
            targets[planes, bits] = loaded, plan, cache
    times: dict[tuple[bool, int, int], list[float]] = {}
    for number in range(rounds + 1):
        for (planes, bits), (loaded, plan, cache) in targets.items():
            for count in ROWS if bits == FULL_BITS else ROWS[:1]:
                ms = _step_ms(loaded, plan, cache, count)
                if number:  # the first round warms up
                    times.setdefault((planes, bits, count), []).append(ms)
    meters = {planes: _meter(loaded, num_prompts) for planes, loaded in kinds.items()}
    return [
        {
            "widen": loaded.widen,
            "planes": planes,
            "bits": bits,
            "ms": {
                count: statistics.median(times[planes, bits, count]) for count in ROWS if (planes, bits, count) in times
            },
            "weight_bytes": plan.weight_bytes,
            "extra_bytes": plan.extra_bytes,
            "agreement": None if bits == FULL_BITS else meters[planes].measure(plan.policy).top1_agreement,
        }
        for (planes, bits), (loaded, plan, _) in targets.items()
    ]


def _step_ms(loaded: LoadedModel, plan: DraftPlan, cache: KVCache, count: int) -> float:
    """Of a few steps over so many rows, what one takes."""
    rows, repeats = Rows.chain(list(range(1, 1 + count)), cache.length), 5
    _wait(loaded)
    started = time.perf_counter()
    for _ in range(repeats):
        loaded.runtime.forward(plan, cache, rows)
    _wait(loaded)
    return (time.perf_counter() - started) / repeats * 1e3


def _wait(loaded: LoadedModel) -> None:
    if loaded.runtime.device.type == "cuda":
        torch.cuda.synchronize(loaded.runtime.device)


def _meter(loaded: LoadedModel, num_prompts: int) -> AgreementMeter:
    prompts = encode_prompts(calibration_prompts(), loaded.tokenizer, _PROMPT_TOKENS)[:num_prompts]
    tokens = [prompt.tokens for prompt in prompts]
    return AgreementMeter(loaded.runtime, tokens, _NEW_TOKENS, eos=loaded.generation_eos)


def markdown(document: Mapping[str, Any]) -> str:
    """The report as a person reads it."""
    heads = [f"ms, {count} row{'s' * (count > 1)}" for count in ROWS]
    lines = ["# Byte planes", "", device_line(document["device"]), f"Command: `{document['command']}`", ""]
    lines += [
        f"`{document['model']}` in float16. 8 bits beside planes are the upper plane, else 8 bits per output channel."
        " Agreement is that of first choices with the target, teacher-forced; the head is the target's own.",
        "",
        f"| widened | planes | bits | {' | '.join(heads)} | over the target's step | added memory | agreement |",
        "|---" * (6 + len(heads)) + "|",
    ]
    target_ms = 0.0
    for row in document["rows"]:
        ms = {int(count): value for count, value in row["ms"].items()}  # keys of JSON are strings
        if row["bits"] == FULL_BITS:
            target_ms = ms[1]  # of the drafts in the rows that follow
        times = " | ".join(f"{ms[count]:.3f}" if count in ms else "" for count in ROWS)
        planes, added = "yes" if row["planes"] else "no", f"{row['extra_bytes'] / 1e6:.1f} MB"
        agreement = "" if row["agreement"] is None else f"{row['agreement']:.3f}"
        cells = (row["widen"], planes, row["bits"], times, f"{ms[1] / target_ms:.2f}", added, agreement)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write JSON and Markdown."""
    parser = report_parser("byte_planes", __doc__, "reports/byte-planes")
    parser.add_argument("--model", default="llama")
    parser.add_argument("--widen", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--num-prompts", type=int, default=24)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for factor in options.widen:
        print(f"widened {factor} times", file=sys.stderr)
        kinds = {
            planes: load_model(options.model, widen=factor, dtype="float16", device=options.device, byte_planes=planes)
            for planes in (False, True)
        }
        rows += measure(kinds, options.rounds, options.num_prompts)
    runtime = kinds[True].runtime
    document = {
        "model": options.model,
        "command": command_line("byte_planes", arguments),
        "device": device_stamp(runtime.device, runtime.backend).model_dump(mode="json"),
        "rows": rows,
    }
    write_report(options.output, document, markdown)


if __name__ == "__main__":
    main()
