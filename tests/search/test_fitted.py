"""The stage of a search that fits drafts: which ones, how they are measured and exported, and what resuming repeats."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from autodraft.cascade import Cascade, SelfDraft
from autodraft.configuration import SearchJob
from autodraft.decoding import CascadeDecoder
from autodraft.evaluator import Evaluation
from autodraft.fitting import fitter
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.profile import DraftProfile
from autodraft.profile_parts import WeightsFile
from autodraft.runtime import LoadedModel
from autodraft.search.fitted import FittedSearcher, neighbours, worth_fitting
from autodraft.search.run import RunningSearch
from autodraft.search.runtime_evaluator import RuntimeEvaluator
from autodraft.search.space import narrowed
from autodraft.search.testing import PlantedEvaluator
from tests.search.test_run import job, loaded  # noqa: F401 - the fixture


def found(policy: DraftPolicy, speedup: float, cost: float) -> tuple[DraftPolicy, Evaluation]:
    return policy, Evaluation("predicted", speedup, 3.0, 4.0, cost, 1.2, extra_bytes=0, wall_s=0.1)


def dropping(*sub_layers: int) -> DraftPolicy:
    return DraftPolicy.uniform(4, 4).replace(dict.fromkeys(sub_layers, ChannelShares()))


def test_the_best_is_fitted_then_cheaper_and_cheaper_ones() -> None:
    best, cheaper, cheapest = dropping(1), dropping(1, 2, 3), dropping(1, 2, 3, 4, 5)
    pool = [
        found(cheapest, 1.1, 0.15),
        found(dropping(), 1.5, 0.40),
        found(dropping(2), 1.7, 0.34),  # hardly cheaper than the best
        found(best, 1.8, 0.36),
        found(cheaper, 1.4, 0.25),
        found(dropping(1, 2, 3, 4), 1.2, 0.20),  # hardly cheaper than `cheaper`
    ]
    assert worth_fitting(pool) == [best, cheaper, cheapest]
    assert worth_fitting(pool[:1]) == [cheapest] and worth_fitting([]) == []


def test_a_draft_that_cannot_be_fitted_in_time_is_passed_over() -> None:
    asked: list[tuple[DraftPolicy, float | None]] = []

    def fit(policy: DraftPolicy, seconds: float | None) -> None:
        asked.append((policy, seconds))

    searcher = FittedSearcher([dropping(1), dropping(2)], fit, lambda done: 3.0)
    assert searcher.ask() is None and asked == [(dropping(1), 3.0), (dropping(2), 3.0)]


def test_after_the_ladder_the_search_goes_on_from_the_best_fitted_draft(tmp_path: Path) -> None:
    narrow = dropping().replace({1: ChannelShares(four=9)})
    features = replace(PlantedEvaluator(4).features, narrowing={8: (0.1,) * 4})
    (tmp_path / "draft.safetensors").write_bytes(b"weights")
    weights = WeightsFile.of(tmp_path / "draft.safetensors", tmp_path)
    searcher = FittedSearcher(
        [dropping(1), narrow], lambda *_: weights, lambda done: None, partial(neighbours, features)
    )
    asked = []
    for speedup in (1.2, 1.5, 1.4, 1.6, 1.3, 1.1):
        proposal = searcher.ask()
        assert proposal is not None and proposal.weights == weights
        asked.append(proposal.policy)
        searcher.tell(proposal, found(proposal.policy, speedup, 0.3)[1])
    others = [
        narrow.replace({}, head_bits=8),
        narrowed(features, narrow, 8),
        narrow.replace({1: ChannelShares(four=11)}),
    ]
    assert asked[:5] == [dropping(1), narrow, *others]
    assert asked[5] in neighbours(features, others[1])  # the best so far
    assert len(set(asked)) == len(asked)


def search(settings: SearchJob, loaded: LoadedModel) -> RunningSearch:  # noqa: F811
    settings.output_folder.mkdir(exist_ok=True)
    running = RunningSearch(settings, loaded, settings.output_folder, time.monotonic())
    running.run()
    return running


def test_fitted_drafts_are_measured_exported_and_known_again(
    tmp_path: Path,
    loaded: LoadedModel,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unhurried = job(tmp_path, budget_minutes=None, free_drafts=False)
    first = search(unhurried, loaded)
    drafts = [draft for draft, _ in first.loop.refitted.values()]
    files = {draft.weights.file for draft in drafts if draft.weights is not None}
    assert files == {path.name for path in tmp_path.glob("fitted-*.safetensors")}
    assert any(each.drafts[0] in drafts for each, _ in first.loop.measured.values() if len(each.drafts) == 1)

    finalists = json.loads((tmp_path / "search.json").read_text())["finalists"]
    cascades = [Cascade.model_validate(each["cascade"], context={"folder": tmp_path}) for each in finalists.values()]
    chosen = next(each for each in cascades if any(isinstance(d, SelfDraft) and d.weights for d in each.drafts))
    prompt = [5, 9, 33, 2, 71, 12, 40]
    plain = CascadeDecoder(loaded.runtime).generate(prompt, max_new_tokens=16).tokens
    assert CascadeDecoder(loaded.runtime, chosen).generate(prompt, max_new_tokens=16).tokens == plain
    assert DraftProfile.load(tmp_path / "profile.json").measurement is not None

    def refuse(*arguments: object, **settings: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(fitter, "fit_draft", refuse)
    for name in ("predict", "measure", "compare"):
        monkeypatch.setattr(RuntimeEvaluator, name, refuse)
    again = search(unhurried, loaded)
    assert again.study.recorded("fit") == len(files)
    assert again.loop.refitted == first.loop.refitted and list(again.loop.measured) == list(first.loop.measured)


def test_a_search_that_went_on_without_fitting_does_not_begin_with_it_when_it_is_resumed(
    tmp_path: Path,
    loaded: LoadedModel,  # noqa: F811
) -> None:
    first = search(job(tmp_path, fit=False), loaded)
    assert not first.loop.refitted and not list(tmp_path.glob("*.safetensors"))
    again = search(job(tmp_path, fit=True), loaded)
    assert not again.loop.refitted and not list(tmp_path.glob("*.safetensors"))
    assert list(again.loop.measured) == list(first.loop.measured)
