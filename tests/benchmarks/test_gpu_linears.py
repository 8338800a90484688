"""The report on products on a GPU, as far as it can be known without one: shapes, parts, Markdown, and the refusal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from autodraft.benchmarks.gpu_linears import SHAPES, main, part_names
from autodraft.benchmarks.gpu_linears_table import markdown
from autodraft.benchmarks.gpu_parts import DONE, NOT_BEGUN, Part, earlier_parts, run_part, run_parts

_DEVICE = {"name": "a device", "threads": 8, "backend": "torch", "versions": {"torch": "2.13.0", "triton": "3.6.0"}}


def _row(kernel: str, bits: int, us: float, **changes: Any) -> dict[str, Any]:
    place = {"layer": "o", "outputs": 4096, "inputs": 4096, "count": 32}
    figures = {"rows": 1, "us": us, "bytes": 2_000_000 * bits, "same_bits": True}
    return {**place, "kernel": kernel, "bits": bits, **figures, **changes}


def _document() -> dict[str, Any]:
    return {
        "device": _DEVICE,
        "command": "python -m autodraft.benchmarks.gpu_linears",
        "parts": {
            "bandwidth": {"status": DONE, "rows": [{"copy_bytes_per_s": 4e12}]},
            "torch/M": {
                "status": DONE,
                "rows": [
                    _row("F.linear", 16, 10.0),
                    _row("F.linear", 16, 11.0, rows=16, same_bits=False),
                    {"layer": "o", "kernel": "_scaled_mm, FP8 rowwise", "bits": 8, "left_out": "no such device"},
                ],
            },
            "autodraft/M": {"status": "stopped after 3 s", "rows": [_row("autodraft", 4, 4.0)]},
            "tiles/M": {"status": DONE, "rows": [_row("16 x 128", 4, 5.0), _row("32 x 256", 4, 3.0)]},
        },
    }


def test_shapes_add_up_to_their_models() -> None:
    """Parameters of the products: those of the model cards less norms, and less the embedding where it is no head."""
    totals = {
        model: sum(outputs * inputs * count for outputs, inputs, count in shape.layers.values())
        for model, shape in SHAPES.items()
    }
    assert totals["Llama-3.1-8B"] == 8_030_261_248 - 128256 * 4096 - 65 * 4096
    assert totals["Llama-3.2-3B"] == 3_212_749_824 - 57 * 3072
    assert part_names()[:3] == ["bandwidth", "torch/Llama-3.1-8B", "torch/Llama-3.2-3B"]


def test_the_markdown_says_what_was_measured_and_what_was_not() -> None:
    text = markdown(_document())
    assert "Memory copied at 4000 GB/s" in text
    assert "| o | 4096 x 4096 | 1 | F.linear | 16 | 10.0 | 3200 | 80% | 1.00 | yes |" in text
    assert "| o | 4096 x 4096 | 1 | autodraft | 4 | 4.0 | 2000 | 50% | 2.50 | yes |" in text
    assert "| F.linear | 16 | 16 | 0.35 | 1.10 |" in text and "| autodraft | 4 | 1 | 0.13 | 0.40 |" in text
    assert "| o | 4 | 1 | 32 x 256 | 3.0 |" in text and "16 x 128" not in text
    assert "- autodraft/M: stopped after 3 s" in text
    assert "- torch/M: _scaled_mm, FP8 rowwise at 8 bits: no such device" in text


def test_a_sum_of_only_some_products_is_not_shown() -> None:
    document = _document()
    document["parts"]["torch/M"]["rows"].append(_row("F.linear", 16, 20.0, layer="down"))
    text = markdown(document)
    assert "| F.linear | 16 | 1 | 0.96 | 1.00 |" in text
    assert "| autodraft | 4 | 1 | 0.13 |" not in text and "| F.linear | 16 | 16 | 0.35 |" not in text


def test_nothing_measured_yet_is_a_report_as_well() -> None:
    assert "Memory: not measured." in markdown({"device": _DEVICE, "command": "x", "parts": {}})


@pytest.mark.parametrize(
    ("after", "limit_s", "status"),
    [
        ("", 600, DONE),
        ("import time; time.sleep(600)", 5, "stopped after 5 s"),
        ("raise ValueError('a fault')", 600, "failed (1): ValueError: a fault"),
    ],
)
def test_a_part_leaves_what_it_had(after: str, limit_s: int, status: str) -> None:
    rows: list[Any] = []
    program = f"print('a word'); print('{{\"us\": 1}}', flush=True)\n{after}"
    assert run_part([sys.executable, "-c", program], limit_s, rows.append) == status
    assert rows == [{"us": 1}]


def test_only_parts_that_are_not_done_run_again() -> None:
    parts = {"first": {"status": DONE, "rows": [1]}, "second": {"status": "stopped after 1 s", "rows": [{"us": 9}]}}
    saved = []
    part = Part([sys.executable, "-c", "print('{\"us\": 2}')"], 60)
    run_parts({"first": part, "second": part}, parts, lambda: saved.append(json.dumps(parts)))
    assert parts == {"first": {"status": DONE, "rows": [1]}, "second": {"status": DONE, "rows": [{"us": 2}]}}
    assert len(saved) == 2


def test_no_part_begins_after_the_time_for_all() -> None:
    rows = [{"us": 9}]
    parts: dict[str, Any] = {"first": {"status": "stopped after 1 s", "rows": rows}}
    part = Part([sys.executable, "-c", "print('{\"us\": 2}')"], 60)
    run_parts({"first": part, "second": part}, parts, lambda: None, total_s=0)
    assert parts == {
        "first": {"status": "stopped after 1 s", "rows": rows},
        "second": {"status": NOT_BEGUN, "rows": []},
    }


def test_what_a_part_says_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    program = "import sys; print('loading', file=sys.stderr)"
    assert run_part([sys.executable, "-c", program], 60, lambda row: None) == DONE
    assert capsys.readouterr().err == "loading\n"


def test_figures_of_another_device_are_not_gone_on_with(tmp_path: Path) -> None:
    document = _document()
    (tmp_path / "report.json").write_text(json.dumps(document))
    assert earlier_parts(tmp_path / "report", _DEVICE) == document["parts"]
    assert earlier_parts(tmp_path / "report", {**_DEVICE, "name": "another"}) == {}
    assert earlier_parts(tmp_path / "nothing", _DEVICE) == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--output", str(tmp_path / "report")])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: this machine has no usable CUDA device; there is nothing to measure\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_a_part_on_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    main(["--part", "bandwidth"])
    assert json.loads(capsys.readouterr().out)["copy_bytes_per_s"] > 1e10
