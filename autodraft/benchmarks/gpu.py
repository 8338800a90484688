"""Everything that is worth knowing about one CUDA GPU, in the order of its worth: ceilings, steps, decoding, a search.

Run as `python -m autodraft.benchmarks.gpu`; the same command goes on where an earlier one stopped. Every part is a
process of its own under a time limit, and rows are written to the report as they come, so that a device that is there
for a few minutes leaves what those minutes gave. Knows which parts there are; what they measure is their own matter.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from autodraft.benchmarks.gpu_decode import measure_decoding, measure_identity
from autodraft.benchmarks.gpu_device import free_bytes, require_cuda
from autodraft.benchmarks.gpu_models import random_config, random_runtime, shortage
from autodraft.benchmarks.gpu_parts import Emit, Part, earlier_parts, print_row, run_parts
from autodraft.benchmarks.gpu_search import PROFILE_NAME, measure_bench, measure_search
from autodraft.benchmarks.gpu_steps import CONTEXTS, ROOM, measure_steps
from autodraft.benchmarks.gpu_table import markdown
from autodraft.benchmarks.gpu_timing import copy_bytes_per_s, matmul_flop_per_s
from autodraft.benchmarks.writing import command_line, report_parser, write_report
from autodraft.configuration import SearchJob
from autodraft.measure.device import device_stamp
from autodraft.profile import DraftProfile
from autodraft.report.files import report_file, write_document
from autodraft.runtime import LoadedModel, TransformerRuntime, load_model

WIDE = "llama-x16"
PARTS: dict[str, tuple[float, tuple[str, ...]]] = {
    "ceilings": (60, ()),
    f"steps/{WIDE}": (150, ()),
    "steps/Llama-3.1-8B": (150, ()),
    f"search/{WIDE}": (120, ("search_minutes", "refitted")),
    f"bench/{WIDE}": (240, ("num_prompts", "new_tokens", "search_minutes", "refitted")),
    f"identity/{WIDE}": (300, ("identity_prompts", "search_minutes", "refitted")),
    f"sampled/{WIDE}": (240, ("num_prompts", "new_tokens", "search_minutes", "refitted")),
    f"decode/{WIDE}": (300, ("num_prompts", "new_tokens")),
    "steps/Qwen3-32B": (240, ()),
}
"""Parts in the order of their worth: seconds that they may take (a search beside its budget), and their options."""
_IDENTITY_TOKENS = 256
_TEMPERATURE = 0.7  # of what is sampled


def measure_part(name: str, options: Namespace, emit: Emit) -> None:
    """Run one part in this process."""
    kind, _, model = name.partition("/")
    if kind == "ceilings":
        emit({"copy_bytes_per_s": copy_bytes_per_s()})
        emit({"matmul_flop_per_s": matmul_flop_per_s()})
    elif kind == "steps":
        _measure_steps(model, emit)
    elif kind == "decode":
        measure_decoding(_wide_model(), emit, num_prompts=options.num_prompts, new_tokens=options.new_tokens)
    elif kind == "identity":
        profile = _profile_path(options.output)
        measure_identity(
            _wide_model(), emit, num_prompts=options.identity_prompts, new_tokens=_IDENTITY_TOKENS,
            profile=DraftProfile.load(profile) if profile.exists() else None,
        )  # fmt: skip
    elif kind == "search":
        measure_search(_search_job(options), emit)
    else:
        _measure_bench(options, emit, _TEMPERATURE if kind == "sampled" else 0.0)


def _wide_model() -> LoadedModel:
    print("loading the bundled model, widened 16 times", file=sys.stderr)
    return load_model("llama", widen=16, dtype="bfloat16", device="cuda")


def _measure_steps(model: str, emit: Emit) -> None:
    if model == WIDE:
        _with_model(emit, lambda: _wide_model().runtime, predict=False)
        return
    device, config = torch.device("cuda"), random_config(model)
    reason = shortage(config, free_bytes(device))
    if reason is not None:
        emit({"kind": "model", "left_out": reason})
        return
    _with_model(emit, lambda: random_runtime(config, device, CONTEXTS[-1] + ROOM), predict=True)


def _with_model(emit: Emit, make: Callable[[], TransformerRuntime], predict: bool) -> None:
    started = time.perf_counter()
    runtime = make()
    emit({
        "kind": "model",
        "load_s": time.perf_counter() - started,
        "blocks": runtime.spec.num_blocks,
        "weight_bytes": runtime.target.weight_bytes,
        "bits": list(runtime.available_bits),
    })  # fmt: skip
    measure_steps(runtime, emit, predict=predict)


def _search_folder(output: Path) -> Path:
    """Where the search's study and profile go: beside the report."""
    return report_file(output, "-search")


def _profile_path(output: Path) -> Path:
    return _search_folder(output) / PROFILE_NAME


def _search_job(options: Namespace) -> SearchJob:
    return SearchJob(
        model="llama",
        widen=16,
        device="cuda",
        dtype="bfloat16",
        budget_minutes=options.search_minutes,
        output=_search_folder(options.output),
        refitted=tuple(options.refitted),
    )


def _measure_bench(options: Namespace, emit: Emit, temperature: float) -> None:
    path = _profile_path(options.output)
    if not path.exists():
        emit({"kind": "bench", "left_out": "no search has exported a profile beside this report"})
        return
    measure_bench(
        _wide_model(), path, emit,
        num_prompts=options.num_prompts, new_tokens=options.new_tokens, temperature=temperature,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is still missing, and write JSON and Markdown."""
    options = _parser().parse_args(arguments)
    require_cuda()
    if options.part is not None:
        measure_part(options.part, options, print_row)
        return
    _run(options, command_line("gpu", arguments))


def _parser() -> ArgumentParser:
    parser = report_parser("gpu", __doc__, "reports/gpu")
    parser.add_argument("--parts", type=_part_names, default=list(PARTS), help="names with commas between; all")
    parser.add_argument("--part", choices=list(PARTS), help="measure one part and print its rows as JSON lines")
    parser.add_argument("--part-seconds", type=_at_least(1), help="time limit of each part, in place of its own")
    parser.add_argument("--total-seconds", type=_at_least(1), default=float("inf"), help="time limit of all parts")
    parser.add_argument("--num-prompts", type=_count(2), default=12, help="prompts of decode, bench and sampled")
    parser.add_argument("--new-tokens", type=_count(8), default=128, help="new tokens for each of them")
    parser.add_argument("--identity-prompts", type=_count(1), default=100, help="prompts of identity")
    parser.add_argument("--search-minutes", type=_at_least(0.1), default=3.0, help="budget of the search")
    parser.add_argument(
        "--refitted", type=Path, action="append", default=[], metavar="FOLDER",
        help="a draft for the search, refitted by `autodraft sparsify --model llama --widen 16 --as-draft`; repeatable",
    )  # fmt: skip
    return parser


def _part_names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in PARTS]:
        raise ArgumentTypeError(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return [name for name in PARTS if name in names]


def _at_least(least: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        if not float(text) >= least:
            raise ArgumentTypeError(f"{text} is less than {least:g}")
        return float(text)

    return number


def _count(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return number


def _run(options: Namespace, command: str) -> None:
    device = device_stamp(torch.device("cuda"), "torch").model_dump(mode="json")
    wanted = {name: part_arguments(name, options) for name in options.parts}
    parts = unchanged_parts(earlier_parts(options.output, device), wanted)
    document: dict[str, Any] = {"device": device, "command": command, "parts": parts}

    def save() -> None:
        for name in wanted:
            if name in parts:
                parts[name]["arguments"] = wanted[name]
        document["parts"] = {name: parts[name] for name in PARTS if name in parts}
        write_document(options.output, document, markdown)

    module = [sys.executable, "-m", "autodraft.benchmarks.gpu", "--output", str(options.output), "--part"]
    runs = {name: Part([*module, name, *wanted[name]], part_limit_s(name, options)) for name in wanted}
    run_parts(runs, parts, save, options.total_seconds)
    save()
    write_report(options.output, document, markdown)


def part_arguments(name: str, options: Namespace) -> list[str]:
    """The options that a part obeys, as its process is given them."""
    given = ((f"--{option.replace('_', '-')}", getattr(options, option)) for option in PARTS[name][1])
    pairs = [(flag, each) for flag, value in given for each in (value if isinstance(value, list) else [value])]
    return [text for flag, value in pairs for text in (flag, f"{value:g}" if isinstance(value, float) else str(value))]


def part_limit_s(name: str, options: Namespace) -> float:
    """Seconds that a part may take."""
    if options.part_seconds is not None:
        return float(options.part_seconds)
    budget = 60 * options.search_minutes if name.startswith("search/") else 0
    return PARTS[name][0] + float(budget)


def unchanged_parts(earlier: dict[str, Any], wanted: dict[str, list[str]]) -> dict[str, Any]:
    """Without the parts that are wanted with other options than those that an earlier run gave them."""
    return {name: part for name, part in earlier.items() if part["arguments"] == wanted.get(name, part["arguments"])}


if __name__ == "__main__":
    main()
