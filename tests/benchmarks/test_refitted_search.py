"""The report on a search with refitted drafts: partners differ in the draft alone, figures of one session."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autodraft.benchmarks.refitted_search import arranged, main
from autodraft.cascade import AUTOREGRESSIVE, Cascade, SelfDraft
from autodraft.errors import InputError
from autodraft.policy import DraftPolicy
from autodraft.profile import DraftProfile, Fingerprint, Priors
from autodraft.profile_parts import WeightsFile
from autodraft.runtime import load_model
from autodraft.runtime.draft_weights import save_draft_weights, target_matrices

POLICY = DraftPolicy.uniform(2, 8)


def save_profile(profile: DraftProfile, model: Path, folder: Path, refitted: bool, dtype: str = "auto") -> Path:
    """The invented profile for a real model, with one self-draft; on a file of the target's own matrices or without."""
    loaded = load_model(str(model), dtype=dtype)
    weights = None
    if refitted:
        matrices = target_matrices(loaded.runtime.weights, loaded.runtime.spec, set(range(4)))
        save_draft_weights(matrices, folder / "draft.safetensors", loaded.runtime.dtype)
        weights = WeightsFile.of(folder / "draft.safetensors", folder)
    stamp = profile.target.model_copy(
        update={"name": str(model), "dtype": dtype, "fingerprint": Fingerprint(**loaded.fingerprint)}
    )
    cascade = Cascade(drafts=(SelfDraft(policy=POLICY, weights=weights, num_draft_tokens=3),))
    path = folder / "profile.json"
    profile.model_copy(update={"target": stamp, "cascade": cascade, "priors": Priors()}).save(path)
    return path


def test_partners_differ_in_the_draft_alone(
    profile: DraftProfile, tiny_model_folder: Path, tmp_path: Path, one_thread: None
) -> None:
    paths = []
    for side in ("without", "with"):
        (tmp_path / side).mkdir()
        paths.append(str(save_profile(profile, tiny_model_folder, tmp_path / side, side == "with")))
    main([*paths, "--num-prompts", "2", "--new-tokens", "8", "--output", str(tmp_path / "found")])
    document = json.loads((tmp_path / "found.json").read_text())
    assert {"profile", "chain"} <= set(document["ratios"]) and len(document["ratios"]) >= 8
    assert len(document["rows"]) == 2 * len(document["ratios"])
    for name in document["ratios"]:
        without, refitted = (document["rows"][f"{side} | {name}"] for side in ("without", "with"))
        assert without["cascade"] == refitted["cascade"].replace(", draft.safetensors", "")
        assert without["identical"] and refitted["identical"]
    assert document["searches"]["with"] == "autodraft search --model tiny"
    assert "| chain | " in (tmp_path / "found.md").read_text()


def test_a_profile_without_a_model_is_refused(profile: DraftProfile) -> None:
    plain = profile.model_copy(update={"cascade": AUTOREGRESSIVE})
    with pytest.raises(InputError, match="without a self-draft"):
        arranged(plain)
