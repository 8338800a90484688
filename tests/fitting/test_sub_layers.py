"""The training forward pass against Hugging Face's and the runtime's: whole, in part, and as a draft sees it."""

import pytest
import torch

from autodraft.fitting.sub_layers import DraftView, SubLayers
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.runtime import ModelSpec, Rows, build_runtime
from autodraft.runtime.draft_weights import target_matrices
from autodraft.runtime.hf_weights import read_weights
from tests.runtime.tiny import CONFIGS, tiny_model

TOKENS = torch.tensor([[5, 9, 33, 2, 71, 12, 40, 8, 8, 19, 3, 60]])


def sub_layers(name, skipped=(), seed=0):
    model = tiny_model(name, seed)
    spec = ModelSpec.from_config(model.config)
    return model, SubLayers(spec, read_weights(model, spec), {}, skipped)


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_with_all_sub_layers_it_is_the_hugging_face_model(name):
    model, layers = sub_layers(name)
    tokens = TOKENS.repeat(2, 1)
    tokens[1, 3] = 50
    assert torch.allclose(layers.logits(tokens), model(tokens).logits, atol=2e-3)


@pytest.mark.parametrize("name", ["mistral-window", "gemma2", "gemma3", "exaone4"])
@torch.no_grad()
def test_beyond_the_window_it_is_the_hugging_face_model(name):
    model, layers = sub_layers(name)
    tokens = TOKENS.repeat(1, 15)
    assert torch.allclose(layers.logits(tokens), model(tokens).logits, atol=2e-3)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "hunyuan", "opt"])
@torch.no_grad()
def test_a_closed_gate_is_a_skipped_sub_layer(name):
    skipped = (1, 2)
    _, layers = sub_layers(name, skipped)
    model, whole = sub_layers(name)
    gates = torch.ones(1, 6)
    gates[0, list(skipped)] = 0.0
    policy = DraftPolicy.uniform(3).replace(dict.fromkeys(skipped, ChannelShares()))
    runtime = build_runtime(model, backend="torch")
    expected = runtime.forward(runtime.plan(policy), runtime.new_cache(), Rows.chain(TOKENS[0].tolist(), 0))
    assert torch.allclose(layers.logits(TOKENS)[0], expected, atol=2e-3)
    assert torch.allclose(whole.logits(TOKENS, gates=gates), layers.logits(TOKENS), atol=1e-5)


@pytest.mark.parametrize(("name", "repeats"), [("llama", 1), ("opt", 1), ("gemma3", 15)])
@torch.no_grad()
def test_a_draft_sees_what_it_sees_in_decoding(name, repeats):
    """Each window over the target's committed keys, in the runtime, is one window of the training's forward pass."""
    all_tokens = TOKENS.repeat(1, repeats)
    skipped, window, offset, tokens = (2, 5), 4, 3, all_tokens[0].tolist()
    model, target = sub_layers(name)
    runtime = build_runtime(model, backend="torch")
    plan = runtime.plan(DraftPolicy.uniform(3).replace(dict.fromkeys(skipped, ChannelShares())))
    _, keys = target.logits_and_keys(all_tokens)
    draft = SubLayers(target.spec, target.weights, {}, skipped)
    logits = draft.logits(all_tokens, view=DraftView.windowed(keys, len(tokens), window, offset))[0]
    for start in (0, 3, 7, 11, 163)[: 5 if repeats > 1 else 4]:
        stop = min(start + (window if start else offset), len(tokens))
        cache = runtime.new_cache()
        runtime.prefill(cache, tokens[:start])
        expected = runtime.forward(plan, cache, Rows.chain(tokens[start:stop], start))
        assert torch.allclose(logits[start:stop], expected, atol=2e-3), start


@pytest.mark.parametrize("bits", [8, 4])
def test_matrices_learn_at_the_bits_that_the_draft_runs_at(bits):
    """Forward: the runtime's low-bit draft. Backward: every weight has a gradient, though rounding is a staircase."""
    model, target = sub_layers("llama")
    spec, weights = target.spec, target.weights
    own = target_matrices(weights, spec, set(range(spec.num_sub_layers)))
    matrices = {name: torch.nn.Parameter(matrix.clone()) for name, matrix in own.items()}
    draft = SubLayers(spec, weights, matrices, bits=bits)
    runtime = build_runtime(model, backend="torch")
    plan = runtime.plan(DraftPolicy.uniform(3, bits))
    expected = runtime.forward(plan, runtime.new_cache(), Rows.chain(TOKENS[0].tolist(), 0))
    logits = draft.logits(TOKENS)
    assert torch.allclose(logits[0], expected, atol=2e-3)
    assert not torch.allclose(logits, target.logits(TOKENS), atol=1e-2)
    logits.square().sum().backward()
    assert all(float((matrix.grad != 0).float().mean()) > 0.9 for matrix in matrices.values())
