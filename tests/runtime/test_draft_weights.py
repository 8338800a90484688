"""Drafts on weights of their own: the same weights give the same draft, others give the other model's draft."""

from pathlib import Path

import pytest
import torch

from autodraft.errors import ProfileError
from autodraft.policy import FULL_BITS, ChannelShares, DraftPolicy
from autodraft.profile_parts import WeightsFile
from autodraft.runtime import ModelSpec, Rows, TransformerRuntime, build_runtime
from autodraft.runtime.draft_weights import HEAD, kept_sub_layers, save_draft_weights, target_matrices
from autodraft.runtime.hf_weights import read_weights
from autodraft.runtime.widening import widen
from tests.runtime.tiny import tiny_model

TOKENS = [5, 9, 33, 2, 71, 12, 40]
SKIPPING = DraftPolicy.uniform(3).replace({1: ChannelShares(), 2: ChannelShares()})
POLICIES = {
    "full": SKIPPING,
    "8 bits": DraftPolicy.uniform(3, 8).replace({1: ChannelShares(), 2: ChannelShares()}),
    "mixed": SKIPPING.replace({0: ChannelShares(full=8, four=8), 3: ChannelShares(eight=4, four=4)}, head_bits=4),
}


@pytest.fixture(scope="module", autouse=True)
def tiny_models(one_thread):
    """All tests here run on one thread."""


def runtime_of(name: str, backend: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> TransformerRuntime:
    return build_runtime(tiny_model(name, seed).to(dtype), backend=backend)


def weights_of(runtime: TransformerRuntime, policy: DraftPolicy, folder: Path) -> WeightsFile:
    """The matrices that a policy keeps, out of a runtime's target, in a file."""
    matrices = target_matrices(runtime.weights, runtime.spec, kept_sub_layers(policy))
    path = folder / "draft.safetensors"
    save_draft_weights(matrices, path, runtime.dtype)
    return WeightsFile.of(path, folder)


def logits(runtime: TransformerRuntime, policy: DraftPolicy, weights: WeightsFile | None = None) -> torch.Tensor:
    return runtime.forward(runtime.plan(policy, weights), runtime.new_cache(), Rows.chain(TOKENS, 0))


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("bits", POLICIES)
@pytest.mark.parametrize("name", ["llama", "llama-bias", "opt"])
def test_the_targets_own_weights_make_the_plain_draft_bit_for_bit(name, bits, backend, tmp_path):
    runtime, policy = runtime_of(name, backend, torch.bfloat16), POLICIES[bits]
    weights = weights_of(runtime, policy, tmp_path)
    assert torch.equal(logits(runtime, policy, weights), logits(runtime, policy))


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_other_weights_make_the_draft_that_a_target_with_them_would_have(backend, tmp_path):
    target, other = runtime_of("llama", backend), tiny_model("llama")
    policy = POLICIES["mixed"]
    with torch.no_grad():
        for layer in other.model.layers:
            for matrix in (*layer.self_attn.parameters(), *layer.mlp.parameters()):
                matrix.add_(torch.randn_like(matrix) * 0.05)
    changed = build_runtime(other, backend=backend)
    weights = weights_of(changed, policy, tmp_path)
    assert torch.equal(logits(target, policy, weights), logits(changed, policy))
    assert not torch.equal(logits(target, policy, weights), logits(target, policy))


def test_memory_of_own_weights_counts_at_every_bit_width(tmp_path):
    runtime = runtime_of("llama", "native")
    weights = weights_of(runtime, SKIPPING, tmp_path)
    plain, own = runtime.plan(SKIPPING), runtime.plan(SKIPPING, weights)
    assert plain.extra_bytes == 0
    matrices = target_matrices(runtime.weights, runtime.spec, kept_sub_layers(SKIPPING))
    assert own.extra_bytes == sum(matrix.nbytes for matrix in matrices.values())
    assert own.weight_bytes == plain.weight_bytes and not own.is_target


def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path):
    runtime = runtime_of("llama", "native")
    weights = weights_of(runtime, SKIPPING, tmp_path)
    with pytest.raises(ProfileError, match=r"lack blocks\.0\.gate"):
        runtime.plan(DraftPolicy.uniform(3), weights)
    other = weights_of(runtime_of("llama-head-dim", "native"), SKIPPING, tmp_path)
    with pytest.raises(ProfileError, match=r"'blocks\.0\.\w+' \(.*\) does not fit this model"):
        runtime.plan(SKIPPING, other)
    (tmp_path / "draft.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ProfileError, match="checksum differs"):
        runtime.plan(SKIPPING, other)
    with pytest.raises(ProfileError, match="not a safetensors file"):
        runtime.plan(SKIPPING, WeightsFile.of(tmp_path / "draft.safetensors", tmp_path))


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("bits", [FULL_BITS, 4])
def test_a_head_of_its_own_is_run_by_its_draft_alone(bits, backend, tmp_path):
    runtime, policy = runtime_of("llama", backend), SKIPPING.replace({}, head_bits=bits)
    matrices = target_matrices(runtime.weights, runtime.spec, kept_sub_layers(policy))
    turned = runtime.weights.head.flip(0).contiguous()
    weights = save_draft_weights({**matrices, HEAD: turned}, tmp_path / "draft.safetensors", runtime.dtype)
    before = logits(runtime, policy)
    assert torch.equal(logits(runtime, policy, weights), before.flip(1))
    assert torch.equal(logits(runtime, policy), before), "the target's head is what it was"
    plain = save_draft_weights(matrices, tmp_path / "plain.safetensors", runtime.dtype)
    extra = runtime.plan(policy, weights).extra_bytes - runtime.plan(policy, plain).extra_bytes
    assert extra == (turned.nbytes if bits == FULL_BITS else 0), "at low bits nobody shares the target's head anyway"


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3", "opt", "gpt2"])
def test_weights_of_a_narrow_model_are_tiled_for_its_widened_form(name, backend, tmp_path):
    narrow, other = tiny_model(name), tiny_model(name, seed=1)
    spec = ModelSpec.from_config(narrow.config)
    matrices = target_matrices(read_weights(other, spec), spec, kept_sub_layers(SKIPPING))
    matrices[HEAD] = read_weights(other, spec).head
    weights = save_draft_weights(matrices, tmp_path / "draft.safetensors", torch.float32)
    found = [logits(build_runtime(widen(narrow, factor), backend=backend), SKIPPING, weights) for factor in (1, 2)]
    assert torch.allclose(*found, atol=2e-2)


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_sub_layers_that_add_nothing_are_not_run(backend):
    model = tiny_model("llama-bias")
    with torch.no_grad():
        for projection in (model.model.layers[1].self_attn.o_proj, model.model.layers[2].mlp.down_proj):
            projection.weight.zero_()
            projection.bias.zero_()
    runtime, whole = build_runtime(model, backend=backend), runtime_of("llama-bias", backend)
    skipping = DraftPolicy.uniform(3).replace({2: ChannelShares(), 5: ChannelShares()})
    assert torch.equal(logits(runtime, DraftPolicy.uniform(3)), logits(whole, skipping))
    assert runtime.target.weight_bytes == whole.plan(skipping).weight_bytes
    expected = model(torch.tensor([TOKENS])).logits[0]
    assert torch.allclose(logits(runtime, DraftPolicy.uniform(3)), expected, atol=1e-3)
