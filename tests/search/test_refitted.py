"""A search that is given refitted drafts, over a tiny model: candidates, cascades, files, and what is refused."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from autodraft.cascade import Cascade, PromptLookup, SelfDraft
from autodraft.configuration import SearchJob
from autodraft.decoding import CascadeDecoder
from autodraft.errors import InputError
from autodraft.measure.device import device_stamp, target_stamp
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.profile import DraftProfile, Provenance
from autodraft.profile_parts import WeightsFile
from autodraft.runtime import LoadedModel, Rows, build_runtime
from autodraft.runtime.draft_weights import kept_sub_layers, save_draft_weights, target_matrices
from autodraft.runtime.widening import widen
from autodraft.search.refitted import load_refitted
from autodraft.search.run import RunningSearch
from autodraft.search.runtime_evaluator import RuntimeEvaluator
from tests.runtime.tiny import tiny_model
from tests.search.test_run import job, loaded  # noqa: F401 - the fixture

POLICY = DraftPolicy.uniform(3).replace({1: ChannelShares(), 2: ChannelShares()})


def write_refitted(loaded: LoadedModel, folder: Path, scale: float = 1.0) -> Path:  # noqa: F811
    """What `sparsify --as-draft` leaves, with the target's own matrices times `scale` as the refitted ones."""
    matrices = target_matrices(loaded.runtime.weights, loaded.runtime.spec, kept_sub_layers(POLICY))
    scaled = {name: matrix * scale for name, matrix in matrices.items()}
    save_draft_weights(scaled, folder / "draft.safetensors", loaded.runtime.dtype)
    draft = SelfDraft(policy=POLICY, weights=WeightsFile.of(folder / "draft.safetensors", folder))
    return write_profile(loaded, Cascade(drafts=(draft,)), folder)


def write_profile(loaded: LoadedModel, cascade: Cascade, folder: Path) -> Path:  # noqa: F811
    stamp = device_stamp(loaded.runtime.device, loaded.runtime.backend)
    origin = Provenance(study="sparsify", storage="none", seed=0, command="a test", created=datetime.now(UTC))
    profile = DraftProfile(
        conclusion="speculate", target=target_stamp(loaded), device=stamp, cascade=cascade, provenance=origin
    )
    profile.save(folder / "profile.json")
    return folder / "profile.json"


def search(settings: SearchJob, loaded: LoadedModel) -> RunningSearch:  # noqa: F811
    settings.output_folder.mkdir(exist_ok=True)
    running = RunningSearch(settings, loaded, settings.output_folder, time.monotonic())
    running.run()
    return running


def refitted_in(document: dict[str, Any]) -> bool:
    return any(draft.get("weights") for draft in document["cascade"]["drafts"])


def test_refitted_drafts_are_searched_exported_and_known_again(
    tmp_path: Path,
    loaded: LoadedModel,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = (write_refitted(loaded, tmp_path / "one", 0.9).parent, write_refitted(loaded, tmp_path / "two"))
    out = tmp_path / "out"
    # Without a limit of time every survivor is measured, so that a refitted draft is a finalist however slow it is.
    unhurried = job(out, refitted=given, budget_minutes=None, free_drafts=False, fit=False)
    first = search(unhurried, loaded)
    files = {draft.weights.file for draft, _ in first.loop.refitted.values() if draft.weights is not None}
    assert len(files) == 2 and {path.name for path in out.glob("*.safetensors")} == files
    assert all(file in (out / "trials.csv").read_text() for file in files)

    finalists = json.loads((out / "search.json").read_text())["finalists"]
    chosen = next(document for document in finalists.values() if refitted_in(document))
    cascade = Cascade.model_validate(chosen["cascade"], context={"folder": out})
    drafts = [draft for draft in cascade.drafts if isinstance(draft, SelfDraft)]
    plans = [loaded.runtime.plan(draft.policy, draft.weights) for draft in drafts]
    assert chosen["extra_bytes"] == sum(plan.extra_bytes for plan in plans) > 0
    prompt = [5, 9, 33, 2, 71, 12, 40]
    plain = CascadeDecoder(loaded.runtime).generate(prompt, max_new_tokens=16).tokens
    assert CascadeDecoder(loaded.runtime, cascade).generate(prompt, max_new_tokens=16).tokens == plain
    assert DraftProfile.load(out / "profile.json").measurement is not None

    def refuse(*arguments: object) -> None:
        raise AssertionError("evaluated again")

    for name in ("predict", "measure", "compare"):
        monkeypatch.setattr(RuntimeEvaluator, name, refuse)
    again = search(unhurried, loaded)
    assert again.loop.refitted == first.loop.refitted and list(again.loop.measured) == list(first.loop.measured)


def test_an_exported_profile_finds_its_weights_and_says_their_memory(tmp_path: Path, loaded: LoadedModel) -> None:  # noqa: F811
    running = RunningSearch(job(tmp_path, refitted=(write_refitted(loaded, tmp_path / "given"),)), loaded, tmp_path, 0)
    running._calibrate()
    draft = running.refitted[0]
    evaluation = running.evaluator.measure(Cascade(drafts=(PromptLookup(), draft)))
    from autodraft.search.loop import Best

    profile = running._maker().make(Best(Cascade(drafts=(PromptLookup(), draft)), evaluation, ""))
    profile.save(tmp_path / "profile.json")
    expected = loaded.runtime.plan(POLICY, draft.weights).extra_bytes
    assert [prior.extra_bytes for prior in profile.priors.drafts] == [0, expected]
    assert evaluation.extra_bytes == expected
    (tmp_path / "given" / "draft.safetensors").unlink()
    found = DraftProfile.load(tmp_path / "profile.json")
    CascadeDecoder.from_profile(loaded, found).generate([5, 9, 33], max_new_tokens=4)


def test_a_draft_refitted_without_widening_serves_the_widened_target(tmp_path: Path, loaded: LoadedModel) -> None:  # noqa: F811
    path = write_refitted(loaded, tmp_path / "given", 0.9)
    wide = LoadedModel(**{**vars(loaded), "widen": 2, "runtime": build_runtime(widen(tiny_model("llama"), 2))})
    plans = []
    for model in (loaded, wide):
        (draft,) = load_refitted((path,), model, tmp_path)
        plans.append(model.runtime.plan(draft.policy, draft.weights))
    rows = Rows.chain([5, 9, 33, 2, 71, 12, 40], 0)
    logits = [
        model.runtime.forward(plan, model.runtime.new_cache(), rows)
        for model, plan in zip((loaded, wide), plans, strict=True)
    ]
    assert torch.allclose(*logits, atol=2e-2)


def test_what_cannot_be_taken_is_one_line_that_names_it(tmp_path: Path, loaded: LoadedModel) -> None:  # noqa: F811
    def refused(path: Path, message: str, model: LoadedModel = loaded) -> None:
        with pytest.raises(InputError, match=message) as caught:
            load_refitted((path,), model, tmp_path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    refused(tmp_path / "missing", "sparsify --as-draft` makes one")
    (tmp_path / "text.json").write_text("no profile")
    refused(tmp_path / "text.json", "not a JSON file")
    (tmp_path / "plain").mkdir()
    refused(write_profile(loaded, Cascade(drafts=(PromptLookup(),)), tmp_path / "plain"), "nothing to add")

    path = write_refitted(loaded, tmp_path / "given")
    other = LoadedModel(**{**vars(loaded), "fingerprint": {"config": "0" * 64, "weights": "2" * 64}})
    refused(path, "made for tiny, not for this model", other)
    smaller = LoadedModel(
        **{**vars(loaded), "runtime": build_runtime(tiny_model("llama", hidden_size=32, head_dim=16))}
    )
    refused(path, "does not fit this model", smaller)
    weights = path.parent / "draft.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    refused(path, "checksum differs")
    weights.unlink()
    refused(path, "cannot read these weights")
