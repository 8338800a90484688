"""The one report on a GPU: its options, which parts run again, and its Markdown from JSON written by hand."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from autodraft.benchmarks.gpu import PARTS, main, part_arguments, part_limit_s, unchanged_parts
from autodraft.benchmarks.gpu_parts import DONE
from autodraft.benchmarks.gpu_table import markdown
from autodraft.profile import DeviceStamp

_DEVICE = {"name": "a device", "threads": 8, "backend": "torch", "versions": {"torch": "2.13.0", "triton": "3.6.0"}}
_STAMP: dict[str, Any] = {"kind": "cuda", **_DEVICE}
_OPTIONS = Namespace(
    num_prompts=12,
    new_tokens=64,
    identity_prompts=100,
    search_minutes=1.5,
    part_seconds=None,
    refitted=[Path("a"), Path("b")],
)


def _part(*rows: dict[str, Any], status: str = DONE) -> dict[str, Any]:
    return {"status": status, "rows": list(rows), "arguments": []}


def _times(median: float, **figures: Any) -> dict[str, Any]:
    quartiles = {"median_ms": median, "low_ms": median - 0.5, "high_ms": median + 0.5}
    return {"context": 256, "first_s": 3.0, "count": 25, **quartiles, **figures}


def _bench_row(method: str, speedup: float) -> dict[str, Any]:
    unknown = ("tokens_per_cycle", "histogram", "num_draft_tokens", "alpha", "cost", "verify_cost", "shares")
    figures = {"tokens_per_s": 100 * speedup, "speedup": speedup, "ci_low": speedup - 0.1, "ci_high": speedup + 0.1}
    place = {"method": method, "task": "overall", "num_prompts": 4, "num_identical": 3, "ratio_of_means": speedup}
    return {**place, **figures, **dict.fromkeys(unknown)}


def _session(num_prompts: int, speedup: float) -> dict[str, Any]:
    return {
        "kind": "session",
        "session": "eager",
        "num_prompts": num_prompts,
        "new_tokens_per_prompt": 64,
        "kinds": {"autoregressive": "baseline", "int4-chain": "ours", "int4-autoregressive": "lossy"},
        "rows": [
            _bench_row(name, value)
            for name, value in (("autoregressive", 1.0), ("int4-chain", speedup), ("int4-autoregressive", 2.5))
        ],
        "ratios": [{"ours": "int4-chain", "other": "hf-generate", "ratio": 6.0, "ci_low": 5.0, "ci_high": 7.0}],
        "settings": {"autoregressive": {}, "int4-chain": {"scheduler": "chain"}},
        "unavailable": {"hf-generate": "no such mode"},
    }


def _identity(identical: int, *gaps: float) -> dict[str, Any]:
    differences = [{"position": 7, "logit_gap": gap} for gap in gaps]
    counts = {"prompts": 10, "identical_prompts": identical, "tokens": 2560}
    return {"kind": "identity", "method": "int4-dytc", **counts, "differences": differences}


def _document() -> dict[str, Any]:
    target, draft = {"kind": "target", "weight_bytes": 16e9}, {"kind": "draft", "draft": "all blocks, 4 bits"}
    prediction = {"kind": "predicted", "context": 256, "draft": "all blocks, 4 bits"}
    speedup = {"median": 1.8, "ci_low": 1.7, "ci_high": 1.9}
    search = {
        "kind": "search",
        "minutes": 3.0,
        "wall_s": 190.2,
        "conclusion": "speculate",
        "measurement": {"speedup": speedup, "tokens_per_s": 300.0, "num_prompts": 12},
        "predicted": {"speedup": 1.9},
        "baselines": [{"name": "skip-only", "tokens_per_s": 200.0, "speedup": {**speedup, "median": 1.1}}],
        "cascade_lines": ["- suffix-automaton (num_draft_tokens 16)"],
    }
    return {
        "device": _DEVICE,
        "command": "python -m autodraft.benchmarks.gpu",
        "parts": {
            "ceilings": _part({"copy_bytes_per_s": 4e12}, {"matmul_flop_per_s": 7e14}),
            "steps/M": _part(
                {"kind": "model", "blocks": 32, "weight_bytes": 16e9, "load_s": 12.0, "bits": [16, 8, 4]},
                {**target, **_times(8.0, rows=1, verify_cost=1.0)},
                {**target, **_times(9.0, rows=8, verify_cost=1.125)},
                {**draft, **_times(2.0, cost=0.25, weight_bytes=4e9, extra_bytes=5e9, pack_s=1.5)},
                {"kind": "draft", "draft": "all blocks, 8 bits", "left_out": "needs 9 GB"},
                {**prediction, "alpha": 0.8, "num_draft_tokens": 3, "speedup": 1.61},
                {"kind": "memory", "peak_bytes": 30e9, "capture_s": 1.25},
            ),
            "decode/llama-x16": _part(_session(2, 1.1), _session(4, 1.5), status="stopped after 9 s"),
            "search/llama-x16": _part(search),
            "bench/llama-x16": _part({"kind": "bench", "left_out": "no search has exported a profile"}),
            "identity/llama-x16": _part(_identity(10), _identity(8, -0.125, 0.25)),
        },
    }


def test_the_markdown_says_what_was_measured() -> None:
    text = markdown(_document())
    assert "memory, copied: 4000 GB/s" in text and "700 TFLOP/s" in text
    assert "| 256 | 1 | 8.00 | 7.50 to 8.50 | 125.0 | 2000 | 50% | 1.00 | 3.00 |" in text
    assert "| 256 | 8 | 9.00 | 8.50 to 9.50 |  | 1778 | 44% | 1.12 | 3.00 |" in text
    assert "| 256 | all blocks, 4 bits | 2.00 | 1.50 to 2.50 | 0.25 | 2000 | 50% | 5.00 | 1.5 | 3.00 |" in text
    assert "Most memory allocated at once, all drafts included: 30.0 GB; graphs took 1.2 s to capture." in text
    assert "| int4-dytc | 18 of 20 | 5120 | 7 (0.12), 7 (0.25) |" in text
    assert "- the best candidate, measured: 1.80x (1.70 to 1.90) over autoregressive decoding, 300.0 tokens/s" in text
    assert "| skip-only | 200.0 | 1.10x | 1.70-1.90 |" in text
    assert "190 s, of a budget of 180 s" in text and "- suffix-automaton (num_draft_tokens 16)" in text


def test_what_was_predicted_stands_apart() -> None:
    text = markdown(_document())
    measured, _, predicted = text.partition("**Predicted, not measured:**")
    assert "1.61" not in measured and "| all blocks, 4 bits | 1.61 (3) |" in predicted


def test_the_last_row_of_a_session_counts() -> None:
    text = markdown(_document())
    assert "Measured: 4 held-out prompts" in text and "Measured: 2 held-out prompts" not in text
    assert "| int4-chain | 150.0 | 1.50x | 1.40-1.60 |" in text and "| int4-autoregressive\\* | 250.0 |" in text
    assert "| int4-chain | hf-generate | 6.00x | 5.00-7.00 |" in text
    assert "- not run: hf-generate (no such mode)" in text


def test_what_is_missing_is_said_with_its_reason() -> None:
    missing = markdown(_document()).partition("## Not measured")[2]
    assert "- decode/llama-x16: stopped after 9 s" in missing
    assert "- steps/M: all blocks, 8 bits: needs 9 GB" in missing
    assert "- bench/llama-x16: no search has exported a profile" in missing


def test_nothing_measured_yet_is_a_report_as_well() -> None:
    assert "Not measured." in markdown({"device": _DEVICE, "command": "x", "parts": {}})


def test_a_part_obeys_its_own_options_only() -> None:
    assert part_arguments("steps/llama-x16", _OPTIONS) == []
    assert part_arguments("decode/llama-x16", _OPTIONS) == ["--num-prompts", "12", "--new-tokens", "64"]
    assert part_arguments("search/llama-x16", _OPTIONS) == [
        "--search-minutes",
        "1.5",
        "--refitted",
        "a",
        "--refitted",
        "b",
    ]
    assert part_limit_s("search/llama-x16", _OPTIONS) == PARTS["search/llama-x16"][0] + 90
    assert {part_limit_s(name, Namespace(**{**vars(_OPTIONS), "part_seconds": 20})) for name in PARTS} == {20}


def test_parts_with_other_options_are_not_gone_on_with() -> None:
    earlier = {name: {**_part(), "arguments": part_arguments(name, _OPTIONS)} for name in PARTS}
    shorter = Namespace(**{**vars(_OPTIONS), "new_tokens": 32})
    kept = unchanged_parts(earlier, {name: part_arguments(name, shorter) for name in PARTS})
    assert set(PARTS) - set(kept) == {"decode/llama-x16", "bench/llama-x16", "sampled/llama-x16"}
    assert unchanged_parts(earlier, {}) == earlier


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "ceilings,speed"], "no part speed; there are ceilings, steps/llama-x16"),
        (["--part", "speed"], "invalid choice: 'speed'"),
        (["--num-prompts", "1"], "1 is less than 2"),
        (["--search-minutes", "0"], "0 is less than 0.1"),
        (["--total-seconds", "soon"], "invalid number value: 'soon'"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--output", str(tmp_path / "report")])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: this machine has no usable CUDA device; there is nothing to measure\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_done_parts_stay_and_what_failed_is_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is there for this process only, and gone when the process of the part asks for it."""
    monkeypatch.setattr("autodraft.benchmarks.gpu.require_cuda", lambda: None)
    monkeypatch.setattr("autodraft.benchmarks.gpu.device_stamp", lambda *_: DeviceStamp(**_STAMP))
    stamp = DeviceStamp(**_STAMP).model_dump(mode="json")
    ceilings = _document()["parts"]["ceilings"]
    (tmp_path / "gpu.json").write_text(json.dumps({"device": stamp, "command": "x", "parts": {"ceilings": ceilings}}))
    main(["--parts", "decode/llama-x16,ceilings", "--num-prompts", "3", "--output", str(tmp_path / "gpu")])
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert list(parts) == ["ceilings", "decode/llama-x16"] and parts["ceilings"] == ceilings
    assert parts["decode/llama-x16"]["arguments"] == ["--num-prompts", "3", "--new-tokens", "128"]
    assert parts["decode/llama-x16"]["status"].startswith("failed (2): error: this machine has no usable CUDA device")
    assert "- decode/llama-x16: failed (2)" in (tmp_path / "gpu.md").read_text()


@pytest.mark.gpu
def test_a_device_that_is_there_leaves_a_report(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    main(["--parts", "ceilings", "--output", str(tmp_path / "report")])
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["parts"]["ceilings"]["status"] == DONE
    assert "TFLOP/s" in (tmp_path / "report.md").read_text()
