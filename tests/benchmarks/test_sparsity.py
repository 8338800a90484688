"""The report on removed and refitted sub-layers, of a tiny model: made once, then read again."""

import json
from pathlib import Path

from autodraft.benchmarks.sparsity import main


def test_the_report_compares_ways_and_drafts(tiny_model_folder: Path, tmp_path: Path, one_thread: None) -> None:
    (tmp_path / "text.py").write_text("".join(f"def f_{n}(x):\n    return x + {n}\n\n\n" for n in range(150)))
    short = (f"text=[{tmp_path / 'text.py'}]", "tokens_per_step=64", "window_tokens=32")
    settings = [part for assignment in short for part in ("--set", assignment)]
    counts = [*settings, "--steps", "2", "--widen", "1", "--num-prompts", "2", "--new-tokens", "8", "--shares", "0.5"]
    places = ["--work", str(tmp_path / "work"), "--output", str(tmp_path / "sparsity")]
    main(["--model", str(tiny_model_folder), *counts, *places])
    document = json.loads((tmp_path / "sparsity.json").read_text())
    assert set(document["trainings"]) == {"target-0.5", "influence-0.5", "draft-0.5"}
    drafts = document["sessions"][0]["drafts"]
    assert len(drafts) == 6 and all(row["identical"] for row in drafts.values())
    costs = {name: row["cost"] for name, row in drafts.items()}
    assert costs["0.5 kept, 4 bits, refitted"] == costs["0.5 kept, 4 bits, by penalty"]
    text = (tmp_path / "sparsity.md").read_text()
    assert "| 0.5 | penalty, refitted |" in text and "| 0.5 kept, 16 bits, refitted |" in text

    before = (tmp_path / "sparsity.md").read_text()
    main(["--model", str(tiny_model_folder), *counts, *places])
    assert (tmp_path / "sparsity.md").read_text() == before
