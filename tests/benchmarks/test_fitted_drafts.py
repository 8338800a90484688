"""The report on fitted drafts: partners differ in their weights alone, figures of one session."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autodraft.benchmarks.fitted_drafts import CHAIN_LENGTHS, main


@pytest.mark.parametrize("temperature,arrangements", [("0", 2), ("0.7", 1)])
def test_every_chain_runs_with_and_without_the_fit(
    temperature: str, arrangements: int, tiny_model_folder: Path, tmp_path: Path, one_thread: None
) -> None:
    few = ["--agreement-prompts", "4", "--num-prompts", "2", "--new-tokens", "8", "--repeats", "1"]
    arguments = ["--model", str(tiny_model_folder), "--temperature", temperature, *few]
    main([*arguments, "--output", str(tmp_path / "found")])
    document = json.loads((tmp_path / "found.json").read_text())
    drafts = ["everything", "50% of the sub-layers", "50% of the neurons", "25% of the neurons"]
    assert [row["draft"] for row in document["agreement"]] == drafts
    assert document["agreement"][3]["cost"] < document["agreement"][2]["cost"] < document["agreement"][0]["cost"]
    assert len(document["rows"]) == arrangements * len(drafts) * len(CHAIN_LENGTHS)
    for row in document["rows"]:
        assert row["plain"]["identical"] and row["fitted"]["identical"]
        assert 0 <= row["plain"]["alpha"] <= 1 and row["gain"]["value"] > 0
    assert "| 50% of the neurons, 7 deep | " in (tmp_path / "found.md").read_text()
