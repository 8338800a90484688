"""A search that is given routed drafts, over a tiny model: measured, arranged, exported, known again, and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from autodraft.cascade import Cascade, Draft, PromptLookup, RoutedDraft
from autodraft.decoding import CascadeDecoder
from autodraft.errors import InputError
from autodraft.measure.device import device_stamp, target_stamp
from autodraft.profile import DraftPrior, DraftProfile, Priors, Provenance
from autodraft.profile_parts import WeightsFile
from autodraft.runtime import LoadedModel
from autodraft.runtime.router_file import write_router
from autodraft.runtime.routing import RouteGraph, Router
from autodraft.search.loop import Best
from autodraft.search.routed import load_routed
from autodraft.search.run import RunningSearch
from autodraft.search.runtime_evaluator import RuntimeEvaluator
from tests.search.test_refitted import search
from tests.search.test_run import job, loaded  # noqa: F401 - the fixture

PRIOR = DraftPrior(alpha=0.6, cost=0.5, cost_by_rows={1: 0.5, 16: 2.0}, extra_bytes=1234)


def write_routed(loaded: LoadedModel, folder: Path, seed: int = 0) -> Path:  # noqa: F811
    """What `train-router` leaves, with random routes."""
    graph = RouteGraph(6, "sub-layer", 0, 6)
    router = Router.along(graph, [], 64, 8, seed=seed, lead=0.0)
    outputs = torch.randn(router.outputs.shape, generator=torch.Generator().manual_seed(seed))
    write_router(replace(router, outputs=2 * outputs), folder / "router.safetensors", 0.5)
    return write_profile(loaded, RoutedDraft(router=WeightsFile.of(folder / "router.safetensors", folder)), folder)


def write_profile(loaded: LoadedModel, draft: Draft, folder: Path, *priors: DraftPrior) -> Path:  # noqa: F811
    profile = DraftProfile(
        conclusion="speculate",
        target=target_stamp(loaded),
        device=device_stamp(loaded.runtime.device, loaded.runtime.backend),
        cascade=Cascade(drafts=(draft,)),
        priors=Priors(drafts=priors or (PRIOR,)),
        provenance=Provenance(
            study="train-router", storage="none", seed=0, command="a test", created=datetime.now(UTC)
        ),
    )
    profile.save(folder / "profile.json")
    return folder / "profile.json"


def test_routed_drafts_are_measured_arranged_and_known_again(
    tmp_path: Path,
    loaded: LoadedModel,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, given = tmp_path / "out", (write_routed(loaded, tmp_path / "given").parent,)
    unhurried = job(out, routers=given, budget_minutes=None, free_drafts=False, fit=False)
    first = search(unhurried, loaded)
    (draft,) = first.routed
    assert [path.name for path in out.glob("*.safetensors")] == [draft.router.file]
    routed = [
        cascade
        for cascade, _ in first.loop.measured.values()
        if any(isinstance(d, RoutedDraft) for d in cascade.drafts)
    ]
    assert Cascade(drafts=(draft,)) in routed and {cascade.scheduler.kind for cascade in routed} >= {"chain", "dytc"}

    finalists = json.loads((out / "search.json").read_text())["finalists"]
    cascades = {
        name: Cascade.model_validate(each["cascade"], context={"folder": out}) for name, each in finalists.items()
    }
    name, cascade = next(item for item in cascades.items() if any(isinstance(d, RoutedDraft) for d in item[1].drafts))
    assert finalists[name]["extra_bytes"] >= PRIOR.extra_bytes
    prompt = [5, 9, 33, 2, 71, 12, 40]
    plain = CascadeDecoder(loaded.runtime).generate(prompt, max_new_tokens=16).tokens
    assert CascadeDecoder(loaded.runtime, cascade).generate(prompt, max_new_tokens=16).tokens == plain

    def refuse(*arguments: object) -> None:
        raise AssertionError("evaluated again")

    for method in ("predict", "measure", "compare"):
        monkeypatch.setattr(RuntimeEvaluator, method, refuse)
    again = search(unhurried, loaded)
    assert again.routed == first.routed and list(again.loop.measured) == list(first.loop.measured)


def test_an_exported_profile_finds_its_router_and_says_its_costs(tmp_path: Path, loaded: LoadedModel) -> None:  # noqa: F811
    running = RunningSearch(job(tmp_path, routers=(write_routed(loaded, tmp_path / "given"),)), loaded, tmp_path, 0)
    running._calibrate()
    (draft,) = running.routed
    cascade = Cascade(drafts=(PromptLookup(), draft))
    evaluation = running.evaluator.measure(cascade)
    assert evaluation.extra_bytes == PRIOR.extra_bytes
    profile = running._maker().make(Best(cascade, evaluation, ""))
    profile.save(tmp_path / "profile.json")
    assert profile.priors.drafts[1] == PRIOR.model_copy(update={"alpha": evaluation.acceptance_per_draft[1]})
    (tmp_path / "given" / "router.safetensors").unlink()
    found = DraftProfile.load(tmp_path / "profile.json")
    CascadeDecoder.from_profile(loaded, found).generate([5, 9, 33], max_new_tokens=4)


def test_what_cannot_be_taken_is_one_line_that_names_it(tmp_path: Path, loaded: LoadedModel) -> None:  # noqa: F811
    def refused(path: Path, message: str, model: LoadedModel = loaded) -> None:
        with pytest.raises(InputError, match=message) as caught:
            load_routed((path,), model, tmp_path)
        assert f"--router {path}" in str(caught.value) and "\n" not in str(caught.value)

    refused(tmp_path / "missing", "`autodraft train-router` makes one")
    (tmp_path / "plain").mkdir()
    refused(write_profile(loaded, PromptLookup(), tmp_path / "plain"), "none of its drafts has a router")
    path = write_routed(loaded, tmp_path / "given")
    other = LoadedModel(**{**vars(loaded), "fingerprint": {"config": "0" * 64, "weights": "2" * 64}})
    refused(path, "made for tiny, not for this model", other)
    router = path.parent / "router.safetensors"
    router.write_bytes(router.read_bytes()[:-1] + b"?")
    refused(path, "checksum differs")
    router.unlink()
    refused(path, "cannot read these weights")
