"""`autodraft simulate`: shipped worlds load, the table says that its figures are predicted, errors are one line."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from autodraft.cli import app
from autodraft.errors import InputError
from autodraft.simulation import load_world, world_names

CONFIGS = Path(__file__).parents[2] / "configs" / "simulate"


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["simulate", *(str(argument) for argument in arguments)])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_world_loads_and_states_its_assumptions(path: Path) -> None:
    assert path.stem in world_names()
    world = load_world(path.stem)
    assert world == load_world(str(path))
    assert world.description and world.assumptions


def test_a_ladder_goes_from_accurate_to_cheap() -> None:
    world = load_world("64-drafts")
    models = [draft for draft in world.all_drafts if draft.kind == "model"]
    assert len(models) == 64
    assert (models[0].alpha, models[-1].alpha) == pytest.approx((0.95, 0.3))
    assert (models[0].cost[1], models[-1].cost[1]) == pytest.approx((0.6, 0.02))
    assert all(a.alpha > b.alpha and a.cost[1] > b.cost[1] for a, b in pairwise(models))


def test_the_table_says_that_figures_are_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    result = run("--world", "drifting", "--schedulers", "chain,dytc", "--tokens", 300)
    assert result.exit_code == 0, result.output
    assert "predicted" in result.stdout and "nothing was measured" in result.stdout
    assert "chain" in result.stdout and "dytc" in result.stdout


def test_json_holds_world_and_figures_and_options_change_the_first_draft() -> None:
    result = run("--schedulers", "chain", "--alpha", 1, "--cost", 0.5, "--tokens", 300, "--json")
    document = json.loads(result.stdout)
    (row,) = document["rows"]
    draft = document["settings"]["drafts"][0]
    assert document["fidelity"] == row["fidelity"] == "predicted"
    assert (draft["alpha"], draft["cost"]["1"]) == (1.0, 0.5)
    assert row["tokens_per_cycle"] == draft["num_draft_tokens"] + 1
    assert row["shares"]["draft"] > row["shares"]["verify"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--world", "nowhere"), "no shipped world (64-drafts, drifting, llama-70b-h100)"),
        (("--schedulers", "chain,best"), "no scheduler 'best'; there are chain,"),
        (("--alpha", 2), "--alpha: "),
        (("--cost", 0), "--cost: "),
        (("--world", "64-drafts", "--alpha", 0.5), "--alpha: this world's first drafts are a ladder"),
    ],
)
def test_a_wrong_option_is_one_line(arguments: tuple[object, ...], message: str) -> None:
    result = run(*arguments, "--tokens", 10)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr


@pytest.mark.parametrize("content", ["- a list", "drafts: [", "drafts: []", "bogus: 1", ""])
def test_a_wrong_file_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "world.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        load_world(str(path))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
