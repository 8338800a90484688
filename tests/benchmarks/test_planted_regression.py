"""The choice by validation against its definition, planted worlds against theirs, and the program resumed."""

import json

import numpy as np
import pytest
import torch

from autodraft.benchmarks import planted_regression as program
from autodraft.benchmarks.planted_networks import Setting, plant, within_one_standard_error
from autodraft.report.planted_regression_table import planted_regression_markdown

TINY = ["--widths", "4", "--samples", "60", "--noise", "0.1", "--student-depth", "4", "--seeds", "2", "--steps", "40"]
TINY += ["--penalties", "0.5", "0.05"]


def test_the_sparsest_within_one_standard_error_is_chosen():
    errors = torch.rand(6, 50, 40, generator=torch.Generator().manual_seed(0)) + 0.02 * torch.arange(6)[:, None, None]
    chosen = within_one_standard_error(errors)
    for seed in range(50):
        mine = errors[:, seed].numpy()
        means = mine.mean(axis=1)
        best = means.argmin()
        limit = means[best] + mine[best].std(ddof=1) / np.sqrt(40)
        assert chosen[seed] == max(number for number in range(6) if means[number] <= limit)
    assert len(set(chosen.tolist())) > 2


def test_planted_targets_have_variance_one_and_the_noise_asked_for():
    setting = Setting(depth=2, width=4, samples=4000, noise=0.5)
    noisy = plant(setting, 3, torch.Generator().manual_seed(0))
    clean = plant(Setting(2, 4, 4000, 0.0), 3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(clean.test.targets.std(dim=1), torch.ones(3, 1))
    torch.testing.assert_close(noisy.test.targets, clean.test.targets)
    spread = (noisy.training.targets - clean.training.targets).std(dim=1)
    torch.testing.assert_close(spread, torch.full((3, 1), 0.5), rtol=0.05, atol=0)
    assert len(noisy.validation) == 1000


@pytest.fixture(scope="module")
def document(tmp_path_factory, one_thread):
    output = tmp_path_factory.mktemp("report") / "found"
    program.main([*TINY, "--output", str(output)])
    return json.loads(output.with_suffix(".json").read_text())


def test_every_method_has_a_figure_for_every_seed(document):
    assert [row["depth"] for row in document["rows"]] == [1, 3]
    for row in document["rows"]:
        assert set(row["methods"]) == {"standard", "regularised", "refitted", "oracle depth", "depth by validation"}
        for method in row["methods"].values():
            assert len(method["test_error"]) == len(method.get("depth", (0, 0))) == 2
        directly = row["methods"]["depth by validation"]
        assert set(directly["test_error_by_depth"]) == {str(depth) for depth in range(1, row["depth"] + 2)}
        for seed, (depth, error) in enumerate(zip(directly["depth"], directly["test_error"], strict=True)):
            assert directly["test_error_by_depth"][str(depth)][seed] == error
        for name in ("regularised", "refitted"):
            assert set(row["methods"][name]["penalty"]) <= {0.05, 0.5}
            assert all(1 <= depth <= 4 for depth in row["methods"][name]["depth"])


def test_stopped_and_resumed_it_finds_the_same(document, tmp_path, capsys, one_thread):
    output = tmp_path / "found"
    program.main([*TINY, "--depths", "1", "--output", str(output)])
    assert len(json.loads(output.with_suffix(".json").read_text())["rows"]) == 1
    program.main([*TINY, "--output", str(output)])
    resumed = json.loads(output.with_suffix(".json").read_text())
    assert [row["methods"] for row in resumed["rows"]] == [row["methods"] for row in document["rows"]]
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit) as stopped:
        program.main([*TINY, "--steps", "41", "--output", str(output)])
    assert stopped.value.code == 2 and "made with other options" in capsys.readouterr().err


def test_a_method_that_an_older_report_lacks_is_added_to_its_rows(document, tmp_path, one_thread):
    older = json.loads(json.dumps(document))
    for row in older["rows"]:
        del row["methods"]["depth by validation"]
    (tmp_path / "found.json").write_text(json.dumps(older))
    program.main([*TINY, "--output", str(tmp_path / "found")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["methods"] for row in found["rows"]] == [row["methods"] for row in document["rows"]]


def test_the_table_counts_settings_and_seeds():
    def row(depth, standard, refitted, depths):
        sparse = {"test_error": refitted, "depth": depths, "penalty": [0.1] * 2}
        methods = {"standard": {"test_error": standard}, "oracle depth": {"test_error": standard}}
        methods |= {"regularised": sparse, "refitted": sparse}
        by_depth = {str(number): [0.3 / number, 0.1 * number] for number in range(1, depth + 2)}
        methods["depth by validation"] = {**sparse, "depth": [1, 1], "test_error_by_depth": by_depth}
        return {"depth": depth, "width": 8, "samples": 100, "noise": 0.1, "methods": methods, "seconds": 30.0}

    head = {"command": "command", "seeds": 2, "penalties": [0.1], "steps": 9, "student_depth": 8, "num_features": 5}
    rows = [row(1, [0.2, 0.4], [0.1, 0.2], [1, 2]), row(3, [0.2, 0.2], [0.4, 0.1], [3, 3])]
    text = planted_regression_markdown({**head, "rows": rows}, "image.png")
    assert "below standard in 1 of 2 settings (medians), and for 3 of 4 single seeds" in text
    assert "True depth 1: found 1 (1), 2 (1); depth by validation 1 (2)." in text
    assert "True depth 3: found 3 (2); depth by validation 1 (2)." in text
    assert "a higher test error than 3 for 1 of 2 seeds; the median ratio of the two errors is 1.67." in text
    line = "| 1 | 8 | 100 | 0.1 | 0.3000 | 0.1500 | 0.1500 | 0.3000 | 2 of 2 | 1 (1), 2 (1) | 1 (1), 2 (1) | 1 (2) |"
    assert line in text
    assert "Took 1.0 minutes." in text
