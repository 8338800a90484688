"""The report on weights in 12 bits: both ways in one session, the same output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autodraft.benchmarks.coded_weights import ROWS, main
from autodraft.profile import DraftProfile
from autodraft.runtime.native_build import load_library
from tests.benchmarks.test_refitted_search import save_profile


def test_both_ways_decode_the_same(
    profile: DraftProfile, tiny_model_folder: Path, tmp_path: Path, one_thread: None
) -> None:
    if not load_library().reads_codes():
        pytest.skip("the engine of this processor does not read coded weights")
    path = save_profile(profile, tiny_model_folder, tmp_path, refitted=False, dtype="bfloat16")
    arguments = ["--rounds", "1", "--num-prompts", "2", "--new-tokens", "8", "--repeats", "1"]
    main([str(path), *arguments, "--output", str(tmp_path / "found")])
    document = json.loads((tmp_path / "found.json").read_text())
    assert document["matrix_bytes"]["coded"] < 0.95 * document["matrix_bytes"]["plain"]
    assert [step["rows"] for step in document["steps"]] == list(ROWS)
    assert len(document["rows"]) == 3 and all(row["identical"] for row in document["rows"])
    assert set(document["gains"]) == {"decoding", "profile"}
    assert "| profile, coded | " in (tmp_path / "found.md").read_text()
