"""The speed report of a tiny model: JSON, Markdown made from it, and bars."""

from __future__ import annotations

import json
from pathlib import Path

from autodraft.benchmarks.speed import main
from autodraft.profile import DraftProfile, Fingerprint
from autodraft.runtime import load_model


def test_the_report_has_the_cascade_and_every_method(
    profile: DraftProfile, tiny_model_folder: Path, tmp_path: Path
) -> None:
    fingerprint = Fingerprint(**load_model(str(tiny_model_folder), backend="torch").fingerprint)
    stamp = profile.target.model_copy(update={"fingerprint": fingerprint})
    profile.model_copy(update={"target": stamp}).save(tmp_path / "profile.json")
    counts = ["--num-prompts", "2", "--new-tokens", "8", "--repeats", "1", "--no-hf"]
    files = ["--model", str(tiny_model_folder), "--profile", str(tmp_path / "profile.json")]
    main([*files, *counts, "--output", str(tmp_path / "speed")])
    document = json.loads((tmp_path / "speed.json").read_text())
    methods = {row["method"] for row in document["bench"]["rows"]}
    assert {"autoregressive", "profile", "dytc", "skip-only", "on-the-fly"} <= methods
    text = (tmp_path / "speed.md").read_text()
    assert f"Command: `{document['command']}`" in text and "--no-hf" in document["command"]
    assert "- prompt-lookup (num_draft_tokens 8" in text and "- scheduler: chain" in text
    assert "(speed.png)" in text and (tmp_path / "speed.png").exists()
