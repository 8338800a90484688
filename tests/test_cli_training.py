"""`autodraft sparsify` and `autodraft analyze`: output, files, and one line for each kind of bad input."""

import json
from pathlib import Path

import pytest

from tests.test_cli import Run, assert_refused, run  # noqa: F401 - the fixture

TEXT = "".join(f"def function_{n}(value):\n    return value + {n}\n\n\n" for n in range(150))
SHORT = ("--set", "tokens_per_step=64", "--set", "window_tokens=32")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.py").write_text(TEXT)
    return tmp_path / "text.py"


def test_a_draft_is_written_shown_and_decodes(run: Run, text: Path, tiny_model_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    target = ("--model", tiny_model_folder, "--text", text, "--steps", 4, *SHORT)
    result = run("sparsify", *target, "--keep", 0.5, "--as-draft", "--bits", 8, "--output", "draft", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert len(report["kept"]) == 2 and "penalty: step 1 of 4" in result.stderr
    again = run("sparsify", *target, "--keep", 0.5, "--as-draft", "--bits", 8, "--output", "draft")
    assert "2 of 4 sub-layers kept" in again.stdout and "after refit" in again.stdout

    profile = ("--profile", tmp_path / "draft" / "profile.json", "--max-new-tokens", 8)
    assert run("generate", *profile, "--prompt", "def f", "--compare").exit_code == 0
    assert "weights of its own" in run("profile", "show", "draft/profile.json").stdout
    quick = ("search", "--model", tiny_model_folder, "--minutes", 0.05, "--trials", 4, "--set", "num_prompts=2")
    short = ("--set", "new_tokens_per_prompt=8", "--set", "calibration_tokens=64", "--set", "hf_baseline=false")
    searched = run(*quick, *short, "--refitted", "draft", "--output", "searched")
    assert searched.exit_code == 0, searched.output
    assert "refitted" in (tmp_path / "searched" / "trials.csv").read_text()
    (tmp_path / "draft" / "draft.safetensors").unlink()
    assert_refused(run("generate", *profile, "--prompt", "def f"), "draft.safetensors: cannot read these weights")
    assert_refused(run("search", "--refitted", "nowhere"), "--refitted nowhere: no such profile")


def test_what_cannot_be_done_is_one_line(run: Run, text: Path, tiny_model_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    assert_refused(run("sparsify", "--keep", 0), "keep is 0; it is a share of the sub-layers")
    assert_refused(run("sparsify", "--keep", 0.5, "--bits", 4), "'bits' are for drafts")
    assert_refused(run("sparsify", "--keep", 0.5, "--model", "no-such-model"), "no model 'no-such-model'")
    (tmp_path / "file").write_text("")
    assert_refused(run("sparsify", "--keep", 0.5, "--output", tmp_path / "file"), "is a file; give a folder")


def test_analyze_prints_a_row_for_each_sub_layer_and_writes_json_and_plot(
    run: Run,  # noqa: F811
    tiny_model_folder: Path,
    tmp_path: Path,
) -> None:
    result = run("analyze", "--model", tiny_model_folder, "--tokens", 64, "--output", "profile")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("attention ") >= 2 and "rank correlation" in result.stdout
    document = json.loads((tmp_path / "profile.json").read_text())
    assert len(document["contributions"]) == 4
    assert (tmp_path / "profile.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(run("analyze", "--model", tiny_model_folder, "--tokens", 64, "--json").stdout) == document
    assert_refused(run("analyze", "--model", "no-such-model"), "no model")
