"""The report on byte planes of a tiny model: JSON, and Markdown made from it."""

import json

from autodraft.benchmarks.byte_planes import main


def test_the_report_has_both_ways_at_every_precision(tiny_model_folder, tmp_path):
    counts = ["--widen", "1", "--rounds", "1", "--num-prompts", "2", "--device", "cpu"]
    main(["--model", str(tiny_model_folder), *counts, "--output", str(tmp_path / "planes")])
    rows = json.loads((tmp_path / "planes.json").read_text())["rows"]
    assert [(row["planes"], row["bits"]) for row in rows] == [
        (way, bits) for way in (False, True) for bits in (16, 8, 4)
    ]
    added = {(row["planes"], row["bits"]): row["extra_bytes"] for row in rows}
    assert (
        added[False, 8] > added[False, 4] > added[True, 8] == added[True, 16] == 0 and added[False, 4] == added[True, 4]
    )
    text = (tmp_path / "planes.md").read_text()
    assert text.count("| yes |") == 3 and "| 1 | no | 16 |" in text
