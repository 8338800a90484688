"""The controllers' report from a document written by hand."""

from __future__ import annotations

from typing import Any

from autodraft.report.controller_table import controllers_markdown


def evaluation(speedup: float, tau: float, **more: float) -> dict[str, Any]:
    figures = {"tokens_per_cycle": tau, "num_draft_tokens": 3.0, "cost": 0.25, "verify_cost": 1.5}
    return {"speedup": speedup, **figures, **more}


def search(method: str, seed: int, curve: list[tuple[int, float]]) -> dict[str, Any]:
    best = {"policy": "44 | head 4", "evaluation": evaluation(curve[-1][1], 3.0)}
    times = {"own_s": 2.0, "evaluations_s": 40.0}
    return {"method": method, "seed": seed, "num_evaluations": 400, "curve": curve, "best": best, **times}


def cells(text: str, first: str) -> list[list[str]]:
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [row for row in rows if row[0] == first]


def test_searches_are_averaged_and_measurements_stand_beside_their_predictions() -> None:
    measured = {"alpha": 0.8, "ci_low": 1.3, "ci_high": 1.5}
    document = {
        "model": "llama",
        "num_evaluations": 300,
        "num_prompts": 4,
        "device": {"name": "a device", "threads": 1, "backend": "native", "versions": {"autodraft": "0"}},
        "command": "python -m autodraft.benchmarks.controllers",
        "searches": [
            search("ppo", 0, [(1, 1.0), (50, 1.2), (200, 1.6)]),
            search("ppo", 1, [(1, 1.1), (250, 1.8)]),
            search("random", 0, [(1, 1.0), (90, 1.36)]),
        ],
        "measured": {
            "random": evaluation(1.2, 2.1, **measured),
            "ppo": evaluation(1.4, 2.5, **measured),
        },
    }
    text = controllers_markdown(document, "picture.png")
    (found, compared), (_, other) = cells(text, "ppo"), cells(text, "random")
    assert found[:5] == ["ppo", "2", "1.150 (1.100)", "1.700 (1.600)", "100.0 %"]
    assert compared == [
        "ppo",
        "1.600",
        "1.400",
        "1.30 to 1.50",
        "0.80",
        "3.00, 2.50",
        "3.00, 3.00",
        "0.25, 0.25",
        "1.50, 1.50",
    ]
    assert other[1:3] == ["1.360", "1.200"]
    assert text.index(" | ".join(compared)) < text.index(" | ".join(other)), "the fastest first"
    assert cells(text, "random")[0][4] == "80.0 %"
