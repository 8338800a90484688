"""Fitted drafts: nearer to the target than what they were made of, in every family and in both backends."""

from dataclasses import replace

import pytest
import torch

from autodraft.fitting.closed_form import can_fit, fit_draft, windows_of
from autodraft.fitting.sub_layers import DRAFT_WINDOW, DraftView, SubLayers
from autodraft.measure.agreement import AgreementMeter
from autodraft.measure.prompts import calibration_prompts, choose_prompts, encode_prompts, search_prompts
from autodraft.policy import FULL_BITS, ChannelShares, DraftPolicy
from autodraft.policy_text import decode_policy
from autodraft.runtime import ModelSpec, Rows, build_runtime, load_model
from autodraft.runtime.draft_weights import HEAD, DraftWeights, kept_sub_layers, save_draft_weights, target_matrices
from autodraft.runtime.hf_weights import read_weights
from tests.runtime.tiny import CONFIGS, tiny_model

DROPPING = DraftPolicy.uniform(3, 8).replace({1: ChannelShares(), 2: ChannelShares()}, head_bits=FULL_BITS)
POLICIES = {
    "4 bits": DraftPolicy.uniform(3, 4),
    "8 bits, two dropped": DROPPING,
    "4 and 8 bits, two dropped": DraftPolicy.uniform(3, 4).replace(
        {0: ChannelShares(), 3: ChannelShares.all_at(8), 5: ChannelShares()}, head_bits=8
    ),
    "half of the heads, parts of the neurons": DraftPolicy.uniform(3, 4).replace(
        {1: ChannelShares(four=8), 2: ChannelShares(eight=8), 3: ChannelShares(eight=5), 4: ChannelShares()}
    ),
}


@pytest.fixture(scope="module", autouse=True)
def tiny_models(one_thread):
    """All tests here run on one thread."""


def target_of(name: str, seed: int = 0):
    model = tiny_model(name, seed)
    spec = ModelSpec.from_config(model.config)
    return model, spec, read_weights(model, spec)


def text(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 97, (count, 48), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def distance(spec, weights, policy, matrices, windows) -> float:
    """Mean squared difference of a draft's logits from the target's, seen as in decoding."""
    target = SubLayers(spec, weights, {})
    wanted, keys = target.logits_and_keys(windows)
    skipped = set(range(spec.num_sub_layers)) - kept_sub_layers(policy)
    own = {name: matrix for name, matrix in matrices.items() if name != HEAD}
    draft = SubLayers(spec, weights, own, skipped)
    found = draft.logits(windows, view=DraftView.windowed(keys, windows.shape[1], DRAFT_WINDOW, 0))
    return float((found - wanted).square().mean())


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_left_of_a_model_gives_what_the_whole_gave_on_text_it_was_not_fitted_to(name):
    _, spec, weights = target_of(name)
    fitted = fit_draft(spec, weights, DROPPING, text(200, 0), dtype=torch.float32)
    plain = target_matrices(weights, spec, kept_sub_layers(DROPPING))
    assert fitted.keys() == plain.keys()
    assert all(fitted[part].shape == plain[part].shape for part in plain)
    assert distance(spec, weights, DROPPING, fitted, text(16, 1)) < 0.8 * distance(
        spec, weights, DROPPING, plain, text(16, 1)
    )


def test_a_target_that_lost_nothing_is_fitted_to_itself():
    """A sub-layer that adds zero is no loss, however it is dropped: least squares must find the target's matrices."""
    model, spec, _ = target_of("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.zero_()
    weights = read_weights(model, spec)
    policy = DraftPolicy.uniform(3, 8).replace({3: ChannelShares()}, head_bits=FULL_BITS)
    fitted = fit_draft(spec, weights, policy, text(100, 0), dtype=torch.float32)
    for name, matrix in target_matrices(weights, spec, kept_sub_layers(policy)).items():
        assert float((fitted[name] - matrix).norm() / matrix.norm()) < 0.06, name  # rounding to 8 bits, and its repair


def test_a_kept_sub_layer_that_adds_nothing_goes_on_adding_nothing():
    model, spec, _ = target_of("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.zero_()
    weights, policy = read_weights(model, spec), POLICIES["4 bits"]
    fitted = fit_draft(spec, weights, policy, text(20, 0), dtype=torch.float32)
    assert not fitted["blocks.1.down"].any()
    DraftWeights.unsaved(fitted).check(policy, spec)


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "olmo2", "opt", "gpt2"])
def test_runtimes_run_a_fitted_draft_as_it_was_fitted(name, policy, backend, tmp_path):
    model, spec, weights = target_of(name)
    fitted = fit_draft(spec, weights, policy, text(40, 0), dtype=torch.float32)
    assert (HEAD in fitted) == (policy.head_bits != FULL_BITS)
    file = save_draft_weights(fitted, tmp_path / "draft.safetensors", torch.float32)
    runtime = build_runtime(model, backend=backend)
    plan = runtime.plan(policy, file)
    tokens = text(1, 2)[0].tolist()[:DRAFT_WINDOW]
    found = runtime.forward(plan, runtime.new_cache(), Rows.chain(tokens, 0))
    skipped = set(range(spec.num_sub_layers)) - kept_sub_layers(policy)
    draft = SubLayers(spec, replace(weights, head=fitted.get(HEAD, weights.head)), fitted, skipped)
    with torch.no_grad():
        expected = draft.logits(torch.tensor([tokens]))[0]
    # The engine rounds activations to 8 bits as well.
    spread = float((expected - expected.mean(dim=-1, keepdim=True)).square().mean().sqrt())
    assert float((found - expected).square().mean().sqrt()) < 0.1 * spread


def test_drafts_of_the_bundled_model_agree_more_often_on_prompts_of_other_kinds(tmp_path):
    loaded = load_model("llama")
    runtime = loaded.runtime
    texts = [prompt.tokens for prompt in encode_prompts(calibration_prompts(), loaded.tokenizer, 384)]
    windows = windows_of(texts, 256, 8192)
    prompts = encode_prompts(choose_prompts(search_prompts(), 60), loaded.tokenizer, 128)
    meter = AgreementMeter(runtime, [prompt.tokens for prompt in prompts], 48, eos=loaded.generation_eos)
    three_quarters = "44 44 4. 44 4. 44 4. 44 4. 44 .4 .4 .4 .4 .4 44 | head 4"
    for policy, least in (("44 " * 16 + "| head 4", 0.15), (three_quarters, 0.15)):
        draft = decode_policy(policy)
        fitted = fit_draft(runtime.spec, runtime.weights, draft, windows, dtype=torch.float32)
        file = save_draft_weights(fitted, tmp_path / "draft.safetensors", runtime.dtype)
        plain, own = meter.measure(draft).top1_agreement, meter.measure(draft, weights=file).top1_agreement
        assert 1 - own < (1 - least) * (1 - plain)


def test_neurons_that_are_dropped_are_those_that_add_least_to_the_text():
    """Every other neuron is loud by its norms, but listens to a channel of the stream that is silent."""
    model, spec, _ = target_of("llama")
    mlp = model.model.layers[0].mlp
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0
        model.model.layers[0].self_attn.o_proj.weight[0] = 0
        mlp.up_proj.weight[::2] = 0
        mlp.up_proj.weight[::2, 0] = 50
    weights = read_weights(model, spec)
    policy = DraftPolicy.uniform(3, 8).replace({1: ChannelShares(eight=8)}, head_bits=FULL_BITS)
    fitted = fit_draft(spec, weights, policy, text(100, 0), dtype=torch.float32)
    is_kept = torch.arange(spec.intermediate_size) % 2 == 1
    for part, own in (
        ("gate", fitted["blocks.0.gate"]),
        ("up", fitted["blocks.0.up"]),
        ("down", fitted["blocks.0.down"].T),
    ):
        assert torch.equal(own.any(dim=1), is_kept), part
    whole = target_matrices(weights, spec, kept_sub_layers(policy))
    lost = whole | {"blocks.0.down": whole["blocks.0.down"] * ~is_kept}
    found, held_out = distance(spec, weights, policy, fitted, text(16, 1)), text(16, 1)
    assert found < 0.01 * distance(spec, weights, policy, lost, held_out)


def test_what_can_be_fitted_is_low_and_whole():
    low = DraftPolicy.uniform(3, 4)
    assert can_fit(low) and can_fit(DROPPING) and can_fit(low.replace({0: ChannelShares.all_at(8)}))
    assert not can_fit(DraftPolicy.uniform(3)) and not can_fit(DraftPolicy.uniform(3, 8))  # nothing to mend
    assert not can_fit(low.replace({0: ChannelShares.all_at(FULL_BITS)}))  # it would no longer be the target's memory
    assert can_fit(DraftPolicy.uniform(3, 8).replace({1: ChannelShares(eight=8)}))
    assert not can_fit(low.replace({0: ChannelShares(eight=8, four=8)}))  # groups of inputs would have several grids
    assert not can_fit(DraftPolicy.uniform(3, 0))


def test_windows_are_the_texts_one_after_another():
    texts = [[1, 2, 3], [4, 5, 6, 7], [8]]
    assert windows_of(texts, 3, 100).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert windows_of(texts, 3, 5).tolist() == [[1, 2, 3]]
    assert windows_of(texts, 100, 100).tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
