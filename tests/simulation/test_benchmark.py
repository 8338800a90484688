"""The grid of reports/simulation: its points compare like with like, and the report says what fell short."""

import pytest

from autodraft.benchmarks.simulation import FAMILIES, REQUIRED, closed_forms, compare, points, to_markdown


def test_the_grid_has_fifty_points_of_every_family() -> None:
    grid = points(FAMILIES, num_tokens=100, trial_tokens=100, seed=0)
    assert len(grid) == 50 * len(FAMILIES)
    for point in grid:
        world = FAMILIES[point.family](point.alpha, point.cost)
        assert world.acceptance(0) == pytest.approx(point.alpha)
        assert world.all_drafts[0].mean_alpha == pytest.approx(point.alpha)


def test_a_point_and_its_report() -> None:
    (point,) = (
        point
        for point in points(["alike"], num_tokens=1_500, trial_tokens=500, seed=0)
        if (point.alpha, point.cost) == (0.9, 0.05)
    )
    row = compare(point)
    assert row["best_static"].startswith("chain: draft x")
    assert row["ratio"] == row["dytc"]["speedup"] / row["static"]["speedup"]
    document = {"command": "", "num_tokens": 1_500, "closed_forms": closed_forms(20_000, 0)}
    fine = to_markdown({**document, "rows": [{**row, "ratio": 1.012}]})
    short = to_markdown({**document, "rows": [{**row, "ratio": REQUIRED - 0.01}]})
    assert "| 1.012 |" in fine and "below 0.97: 0 of 1" in fine
    assert "| **0.960** |" in short and "below 0.97: 1 of 1" in short


def test_the_simulator_is_within_one_percent_of_the_formula() -> None:
    for row in closed_forms(60_000, 0):
        assert row["simulated"] == pytest.approx(row["formula"], rel=0.01)
