"""What the report on a GPU measures, on tiny models and without one: rows, what is left out, and what theory adds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from autodraft.benchmarks.gpu_decode import (
    HF_COMPILED,
    INT4_CHAIN,
    INT4_DYTC,
    INT4_VERTICAL,
    measure_decoding,
    measure_identity,
)
from autodraft.benchmarks.gpu_models import random_config, random_runtime, shortage
from autodraft.benchmarks.gpu_search import BENCH_METHODS, measure_bench, measure_search
from autodraft.benchmarks.gpu_steps import ALONE, ROWS, Repeats, draft_policies, measure_steps, predicted_rows
from autodraft.benchmarks.gpu_table import markdown
from autodraft.configuration import SearchJob
from autodraft.measure.formulas import chain_speedup
from autodraft.policy import ChannelShares
from autodraft.profile import DraftProfile
from autodraft.runtime import LoadedModel, build_runtime, load_model
from tests.runtime.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
_FAST = Repeats(most=3, seconds=1.0)
_DEVICE = {"name": "a device", "threads": 8, "backend": "torch", "versions": {}}


class _Rows(list[Mapping[str, Any]]):
    """Rows as a report has them after JSON."""

    def emit(self, row: Mapping[str, Any]) -> None:
        self.append(json.loads(json.dumps(row, allow_nan=False)))

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [row for row in self if row["kind"] == kind]

    def as_markdown(self, part: str) -> str:
        parts = {part: {"status": "done", "rows": list(self)}}
        return markdown({"device": _DEVICE, "command": "x", "parts": parts})


@pytest.fixture(scope="module")
def loaded(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A tiny model with room for whole prompts of its byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "roomy"
    shutil.copytree(tiny_model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return load_model(str(folder))


def test_half_of_the_blocks_are_evenly_spread() -> None:
    drafts = draft_policies(32)
    half = drafts["half of the blocks, 4 bits"]
    kept = [index for index, block in enumerate(half.blocks) if block.mlp != ChannelShares()]
    assert len(kept) == 16 and kept[0] == 0 and kept[-1] == 31
    assert max(later - earlier for earlier, later in pairwise(kept)) <= 3
    assert drafts["half of the blocks, 16 bits"].head_bits == 16 and half.head_bits == 4


def test_steps_at_every_context_that_there_is_room_for() -> None:
    runtime, rows = build_runtime(tiny_model("llama"), max_length=200), _Rows()
    measure_steps(runtime, rows.emit, contexts=(64, 1024, 4096), repeats=_FAST, predict=True)
    targets, drafts = rows.of("target"), rows.of("draft")
    assert [(row["context"], row["rows"]) for row in targets] == [(at, n) for at in (64, 168) for n in ROWS]
    assert all(row["low_ms"] <= row["median_ms"] <= row["high_ms"] and row["count"] == 3 for row in targets)
    assert targets[0]["verify_cost"] == 1.0 and targets[0]["weight_bytes"] == runtime.target.weight_bytes
    measured = {row["draft"] for row in drafts if "left_out" not in row}
    fast_bits = set(runtime.available_bits)
    assert measured == {name for name, policy in draft_policies(3).items() if policy.head_bits in fast_bits}
    assert len(rows.of("predicted")) == 4 * len(measured - {ALONE})
    assert rows[-1] == {"kind": "memory", "peak_bytes": None, "capture_s": 0.0}
    assert "Drafted chains, measured" in rows.as_markdown("steps/tiny")


def test_bits_that_are_not_fast_here_are_left_out_with_the_reason() -> None:
    runtime, rows = build_runtime(tiny_model("llama"), max_length=200, backend="torch"), _Rows()
    measure_steps(runtime, rows.emit, contexts=(64,), repeats=_FAST)
    reasons = {row["draft"]: row["left_out"] for row in rows.of("draft") if "left_out" in row}
    assert reasons["all blocks, 8 bits"] == "the torch backend has no fast 8 bits here" and len(reasons) == 3
    assert {row["draft"] for row in rows.of("draft")} - set(reasons) == {ALONE, "half of the blocks, 16 bits"}


def test_predictions_are_the_closed_form_at_its_best_length() -> None:
    verify = {1: 1.0, 4: 1.1, 8: 1.2, 16: 1.6}
    measured: list[dict[str, Any]] = [
        {"kind": "target", "context": 256, "rows": n, "verify_cost": v} for n, v in verify.items()
    ]
    measured.append({"kind": "draft", "context": 256, "draft": "d", "cost": 0.3})
    rows = {row["alpha"]: row for row in predicted_rows(measured)}
    costs = {k: 1.1 if k <= 3 else 1.2 if k <= 7 else 1.6 for k in range(1, 16)}  # of k + 1 rows
    for alpha, row in rows.items():
        every = {k: chain_speedup(alpha, k, 0.3, costs[k]) for k in range(1, 16)}
        assert row["speedup"] == pytest.approx(max(every.values()))
        assert row["num_draft_tokens"] == max(every, key=lambda k: every[k])
    assert list(rows) == [0.6, 0.7, 0.8, 0.9]


def test_models_by_shape_are_their_namesakes() -> None:
    """Weights of the model cards: 8.03 and 32.8 billion parameters, at two bytes, and at 4 bits with their scales."""
    assert shortage(random_config("Llama-3.1-8B"), None) is None
    for name, parameters in (("Llama-3.1-8B", 8.03e9), ("Qwen3-32B", 32.76e9)):
        config = random_config(name)
        needed = 1.1 * parameters * (2 + 0.625)
        assert shortage(config, int(1.02 * needed)) is None
        reason = shortage(config, int(0.9 * needed))
        assert reason is not None and reason.endswith(f"and {0.9 * needed / 1e9:.0f} GB are free")


def test_a_random_model_runs() -> None:
    config = random_config("Qwen3-32B")
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
    for name, value in {**tiny, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}.items():
        setattr(config, name, value)
    runtime = random_runtime(config, torch.device("cpu"), 96)
    assert (runtime.dtype, runtime.max_length) == (torch.bfloat16, 96)
    rows = _Rows()
    measure_steps(runtime, rows.emit, contexts=(32,), repeats=_FAST)
    assert len(rows.of("target")) == len(ROWS)


def test_decoding_without_a_compiler_says_so(loaded: LoadedModel) -> None:
    rows = _Rows()
    measure_decoding(loaded, rows.emit, num_prompts=3, new_tokens=8)
    assert [(row["session"], row.get("num_prompts")) for row in rows] == [
        ("eager", 2), ("eager", 3), (HF_COMPILED, None)
    ]  # fmt: skip
    eager, compiled = rows[1:]
    fast = 4 in loaded.runtime.available_bits
    ours = {INT4_CHAIN, INT4_VERTICAL, INT4_DYTC}
    assert {"autoregressive", "prompt-lookup", "hf-generate"} <= set(eager["kinds"])
    assert ours <= set(eager["kinds"] if fast else eager["unavailable"])
    assert all(row["num_identical"] == 3 for row in eager["rows"] if row["method"] in ours)
    assert {(ratio["ours"], ratio["other"]) for ratio in eager["ratios"]} >= (
        {(name, "hf-generate") for name in ours} if fast else set()
    )
    assert compiled["left_out"] == "transformers did not compile the model on this device"
    text = rows.as_markdown("decode/tiny")
    assert "## Decoding: tiny, eager session" in text and "compiled session" not in text
    assert f"- decode/tiny: {HF_COMPILED}: transformers did not compile the model on this device" in text


def test_identity_is_counted_in_tens_of_prompts(loaded: LoadedModel) -> None:
    rows = _Rows()
    measure_identity(loaded, rows.emit, num_prompts=12, new_tokens=8)
    assert [(row["method"], row["prompts"]) for row in rows] == [
        (INT4_VERTICAL, 10), (INT4_DYTC, 10), (INT4_VERTICAL, 2), (INT4_DYTC, 2)
    ]  # fmt: skip
    if loaded.runtime.backend == "native":  # where a tree's rows round like a chain's
        assert all(row["identical_prompts"] == row["prompts"] for row in rows)
        assert f"| {INT4_DYTC} | 12 of 12 | 96 | none differ |" in rows.as_markdown("identity/tiny")


def test_a_search_and_the_bench_of_what_it_exports(loaded: LoadedModel, tmp_path: Path) -> None:
    job = SearchJob(
        model=loaded.path, output=tmp_path / "search", budget_minutes=0.1, num_trials=4, num_prompts=2,
        new_tokens_per_prompt=8, calibration_tokens=64, num_finalists=1, hf_baseline=False,
    )  # fmt: skip
    searched = _Rows()
    measure_search(job, searched.emit)
    assert searched[0]["wall_s"] > 0 and searched[0]["cascade_lines"]
    assert str(tmp_path) not in json.dumps(searched)
    assert "## Search: tiny" in searched.as_markdown("search/tiny")

    profile, checked = DraftProfile.load(tmp_path / "search" / "profile.json"), _Rows()
    measure_identity(loaded, checked.emit, num_prompts=3, new_tokens=8, profile=profile)
    assert [(row["method"], row["prompts"]) for row in checked] == [("profile", 3)]

    benched = _Rows()
    measure_bench(loaded, tmp_path / "search" / "profile.json", benched.emit, num_prompts=2, new_tokens=8)
    assert set(benched[0]["kinds"]) | set(benched[0]["unavailable"]) == {"autoregressive", *BENCH_METHODS}
    text = benched.as_markdown("bench/tiny")
    assert "| autoregressive |" in text and "8 new tokens each, greedy, all" in text

    sampled = _Rows()
    profile_path = tmp_path / "search" / "profile.json"
    measure_bench(loaded, profile_path, sampled.emit, num_prompts=2, new_tokens=8, temperature=0.7)
    assert "8 new tokens each, temperature 0.7, seed 0, all" in sampled.as_markdown("sampled/tiny")
