"""The forward pass agrees with Hugging Face's, for every family and every way of calling it."""

import pytest
import torch

from autodraft.runtime import Rows, build_runtime
from tests.runtime.tiny import CONFIGS, tiny_model

TOLERANCE = 1e-4
BACKENDS = ["torch", "native"]


def _tokens(count: int, vocab: int = 97, seed: int = 1) -> list[int]:
    return torch.randint(0, vocab, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def _hf_logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_prefill_and_single_steps(name, backend):
    model = tiny_model(name)
    runtime = build_runtime(model, backend=backend)
    tokens = _tokens(150)
    expected = _hf_logits(model, tokens)
    cache = runtime.new_cache()
    runtime.prefill(cache, tokens[:140])
    for position in range(140, 150):
        logits = runtime.forward(runtime.target, cache, Rows.chain([tokens[position]], position))
        cache.commit([position])
        assert (logits[0] - expected[position]).abs().max() < TOLERANCE


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_tree_masked_batch(name, backend):
    model = tiny_model(name)
    runtime = build_runtime(model, backend=backend)
    prompt, nodes = _tokens(37), _tokens(7, seed=2)
    parents = [-1, 0, 0, 1, 1, 2, 4]
    cache = runtime.new_cache()
    runtime.prefill(cache, prompt)
    logits = runtime.forward(runtime.target, cache, Rows.tree(nodes, parents, cache.length))
    for node in range(len(nodes)):
        path, at = [], node
        while at >= 0:
            path.insert(0, nodes[at])
            at = parents[at]
        assert (logits[node] - _hf_logits(model, prompt + path)[-1]).abs().max() < TOLERANCE
    # Committing a branch must leave the cache as if it had been decoded token by token.
    cache.commit([37 + node for node in (0, 1, 4, 6)])
    after = runtime.forward(runtime.target, cache, Rows.chain([5], cache.length))
    expected = _hf_logits(model, [*prompt, *(nodes[node] for node in (0, 1, 4, 6)), 5])[-1]
    assert (after[0] - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["mistral-window", "qwen3-window", "gemma2", "gemma3", "exaone4"])
def test_a_tree_beyond_the_window(name, backend):
    """Branches of different depth see different first keys; a chain is drafted on from where the window was left."""
    model = tiny_model(name)
    runtime = build_runtime(model, backend=backend)
    prompt, nodes = _tokens(200), _tokens(6, seed=2)
    cache = runtime.new_cache()
    runtime.prefill(cache, prompt)
    logits = runtime.forward(runtime.target, cache, Rows.tree(nodes, [-1, 0, 0, 2, 3, 1], cache.length))
    for node, path in ((4, (0, 2, 3, 4)), (5, (0, 1, 5))):
        expected = _hf_logits(model, prompt + [nodes[i] for i in path])[-1]
        assert (logits[node] - expected).abs().max() < TOLERANCE
    drafted = [found.tokens[0] for found in runtime.draft_chain(runtime.target, cache, [7], 5)]
    for length, token in enumerate(drafted):
        assert token == _hf_logits(model, [*prompt, 7, *drafted[:length]])[-1].argmax()


@pytest.mark.parametrize("backend", BACKENDS)
def test_hidden_states_are_the_residual_stream(backend):
    model = tiny_model("llama")
    runtime = build_runtime(model, backend=backend)
    tokens = _tokens(20)
    with torch.no_grad():
        expected = model.model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
    taps = runtime.hidden_states(runtime.new_cache(), Rows.chain(tokens, 0))
    assert taps.shape == (7, 20, 64)
    for block in range(3):  # before each block; the last of Hugging Face's states is normalised
        assert (taps[2 * block] - expected[block][0]).abs().max() < 1e-4
