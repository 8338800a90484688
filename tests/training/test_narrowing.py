"""Drafts that are trained with a part of their neurons: dense while they learn, whole in their file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autodraft.errors import InputError
from autodraft.fitting.sub_layers import SubLayers
from autodraft.policy_text import decode_policy
from autodraft.profile import DraftProfile
from autodraft.runtime import ModelSpec, Rows, load_model
from autodraft.runtime.draft_weights import target_matrices
from autodraft.runtime.hf_weights import read_weights
from autodraft.training.narrowing import Narrowing
from autodraft.training.sparsify import TRAINING_FOLDER, sparsify
from tests.runtime.tiny import tiny_model
from tests.training.test_sparsify import TOKENS, job, text  # noqa: F401 - fixtures

NARROW = "44(6) .4 | head 4"


@pytest.mark.parametrize("name", ["llama", "llama-bias", "opt"])
def test_dense_matrices_do_what_zeros_do(name: str) -> None:
    model = tiny_model(name)
    spec = ModelSpec.from_config(model.config)
    weights = read_weights(model, spec)
    matrices = target_matrices(weights, spec, set(range(spec.num_sub_layers)))
    gone = torch.randperm(spec.intermediate_size, generator=torch.Generator().manual_seed(0))[:30]
    matrices = {part: matrix.clone() for part, matrix in matrices.items()}
    for part in ("gate", "up"):
        if f"blocks.1.{part}" in matrices:
            matrices[f"blocks.1.{part}"][gone] = 0
    matrices["blocks.1.down"][:, gone] = 0
    matrices["blocks.2.down"][:] = 0
    narrowing = Narrowing.of(matrices, spec.num_blocks)
    dense = narrowing.dense(matrices)
    assert list(narrowing.neurons) == [1] and dense["blocks.1.down"].shape[1] == spec.intermediate_size - 30
    for part, matrix in narrowing.spread(dense, spec.intermediate_size).items():
        assert torch.equal(matrix, matrices[part]), part
    tokens = torch.tensor([TOKENS])
    with torch.no_grad():
        found = SubLayers(spec, narrowing.biases_of(weights), dense).logits(tokens)
        assert torch.allclose(found, SubLayers(spec, weights, matrices).logits(tokens), atol=1e-5)


def test_a_narrow_draft_learns_and_its_file_keeps_as_many_neurons_as_its_policy(job) -> None:  # noqa: F811
    settings = job(as_draft=True, policy=NARROW, bits=4, steps=60)
    report = sparsify(settings)
    assert report.qualities["after refit"].divergence < report.qualities["after removal"].divergence
    draft = DraftProfile.load(settings.output_folder / "profile.json").cascade.drafts[0]
    assert draft.policy == decode_policy(NARROW)
    matrices = load_file(settings.output_folder / "draft.safetensors")
    loaded = load_model(settings.model)
    kept = loaded.runtime.spec.intermediate_size * 6 // 16
    is_kept = matrices["blocks.0.down"].any(dim=0)
    assert int(is_kept.sum()) == kept and matrices["blocks.1.down"].any(dim=0).all()
    assert torch.equal(matrices["blocks.0.up"].any(dim=1), is_kept)
    plan = loaded.runtime.plan(draft.policy, draft.weights)
    assert plan.weight_bytes < loaded.runtime.plan(decode_policy("44 .4 | head 4")).weight_bytes
    found = loaded.runtime.forward(plan, loaded.runtime.new_cache(), Rows.chain(TOKENS, 0))
    student = SubLayers(
        loaded.runtime.spec, loaded.runtime.weights, {n: m.float() for n, m in matrices.items()}, {2}, bits=4
    )
    with torch.no_grad():
        expected = student.logits(torch.tensor([TOKENS]))[0]
    spread = float((expected - expected.mean(dim=-1, keepdim=True)).square().mean().sqrt())
    assert float((found - expected).square().mean().sqrt()) < 0.15 * spread  # activations at 8 bits; other groups


def test_a_stopped_training_goes_on_with_its_neurons(job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    whole = sparsify(job(as_draft=True, policy=NARROW, bits=4, output=tmp_path / "whole"))
    shutil.copytree(tmp_path / "whole" / TRAINING_FOLDER, tmp_path / "again" / TRAINING_FOLDER)

    def refuse(*arguments: object, **settings: object) -> None:
        raise AssertionError("chosen anew")

    monkeypatch.setattr("autodraft.training.sparsify.fit_draft", refuse)
    again = sparsify(job(as_draft=True, policy=NARROW, bits=4, output=tmp_path / "again"))
    assert again.qualities == whole.qualities
    files = [load_file(tmp_path / name / "draft.safetensors") for name in ("whole", "again")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    assert json.loads((tmp_path / "again" / "sparsify.json").read_text())["settings"]["policy"] == NARROW


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": NARROW}, "keep parts of an MLP in a draft"),
        ({"policy": "4(8)4 .4 | head 4", "as_draft": True}, "all of an attention's heads"),
    ],
)
def test_parts_that_cannot_be_trained_are_refused(job, settings, message) -> None:  # noqa: F811
    with pytest.raises(InputError, match=message):
        sparsify(job(**settings))
