"""A row's logits are bitwise the same whatever else is in the call: the ground that losslessness stands on."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autodraft.runtime import Rows, build_runtime
from tests.runtime.instruction_sets import INSTRUCTION_SETS, build_on
from tests.runtime.tiny import tiny_model

VOCAB = 97


# Heads of 32 channels meet tile registers where there are some, heads of 16 never do.
CASES = [
    *("native-float32", "native-bfloat16", "native-bfloat16-tiles", "torch-float32", "torch-bfloat16"),
    *("avx2-bfloat16", "avx512-bfloat16", "sse-bfloat16"),
    *("native-float32-windows", "native-bfloat16-windows", "avx512-bfloat16-windows", "torch-float32-windows"),
    "native-bfloat16-joint",
]
MODELS = {"": "llama", "tiles": "llama-head-dim", "windows": "gemma2", "joint": "olmo3"}


@pytest.fixture(scope="module", params=CASES)
def runtime(request):
    backend, dtype, kind = (*request.param.split("-"), "")[:3]
    model = tiny_model(MODELS[kind]).to(getattr(torch, dtype))
    if backend not in INSTRUCTION_SETS:
        return build_runtime(model, backend=backend)
    return build_on(backend, model)


def _prompt(runtime, data, most):
    """Random tokens; in front of them as many as it takes to meet the ends of windows."""
    before = [token % VOCAB for token in range((runtime.spec.sliding_window or 0) * 3 // 4)]
    return before + data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=most))


def _step_by_step(runtime, prompt, tokens):
    """Logits after each of `tokens`, decoded one at a time."""
    cache = runtime.new_cache()
    runtime.prefill(cache, prompt)
    logits = []
    for token in tokens:
        logits.append(runtime.forward(runtime.target, cache, Rows.chain([token], cache.length))[0].clone())
        cache.commit([cache.length])
    return logits


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_chain_verification_is_single_stepping_to_the_bit(runtime, data):
    prompt = _prompt(runtime, data, 70)
    tokens = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=17))
    cache = runtime.new_cache()
    runtime.prefill(cache, prompt)
    together = runtime.forward(runtime.target, cache, Rows.chain(tokens, len(prompt)))
    for row, alone in enumerate(_step_by_step(runtime, prompt, tokens)):
        assert torch.equal(together[row], alone)


def test_a_chain_is_told_apart_and_is_the_same_rows_written_out(runtime):
    chain = Rows.chain([5, 17, 3, 80], 2)
    written_out = Rows(*(list(getattr(chain, field.name)) for field in dataclasses.fields(Rows)))
    assert chain.is_chain and not written_out.is_chain and not Rows.tree([5, 17], [-1, 0], 2).is_chain
    logits = []
    for rows in (chain, written_out):
        cache = runtime.new_cache()
        runtime.prefill(cache, [9, 30])
        logits.append(runtime.forward(runtime.target, cache, rows).clone())
    assert torch.equal(*logits)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_tree_verification_is_single_stepping_to_the_bit(runtime, data):
    """Keys are visited in order of position, wherever they lie."""
    prompt = _prompt(runtime, data, 40)
    size = data.draw(st.integers(1, 40))
    parents = [-1] + [data.draw(st.integers(0, node - 1)) for node in range(1, size)]
    tokens = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=size, max_size=size))
    cache = runtime.new_cache()
    runtime.prefill(cache, prompt)
    together = runtime.forward(runtime.target, cache, Rows.tree(tokens, parents, len(prompt)))
    leaf = data.draw(st.integers(0, size - 1))
    path = []
    while leaf >= 0:
        path.insert(0, leaf)
        leaf = parents[leaf]
    for node, alone in zip(path, _step_by_step(runtime, prompt, [tokens[node] for node in path]), strict=True):
        assert torch.equal(together[node], alone)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_committing_a_branch_leaves_the_cache_of_a_fresh_decode(runtime, data):
    prompt = _prompt(runtime, data, 40)
    size = data.draw(st.integers(2, 12))
    parents = [-1] + [data.draw(st.integers(0, node - 1)) for node in range(1, size)]
    tokens = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=size, max_size=size))
    cache = runtime.new_cache()
    runtime.prefill(cache, prompt)
    runtime.forward(runtime.target, cache, Rows.tree(tokens, parents, len(prompt)))
    path, node = [], size - 1
    while node >= 0:
        path.insert(0, node)
        node = parents[node]
    cache.commit([len(prompt) + node for node in path])
    after = runtime.forward(runtime.target, cache, Rows.chain([3], cache.length))[0]
    fresh = _step_by_step(runtime, prompt, [*(tokens[node] for node in path), 3])[-1]
    if runtime.backend == "native":
        assert torch.equal(after, fresh)
    else:
        assert (after - fresh).abs().max() < (1e-4 if runtime.dtype == torch.float32 else 0.2)


def test_drafts_leave_the_verified_keys_alone(runtime):
    prompt = list(range(30))
    expected = _step_by_step(runtime, prompt, [4, 5])
    cache = runtime.new_cache()
    runtime.prefill(cache, prompt)
    from autodraft.policy import DraftPolicy

    draft = runtime.plan(DraftPolicy.uniform(3, 4))
    runtime.draft_chain(draft, cache, [4], 6)
    logits = runtime.forward(runtime.target, cache, Rows.chain([4, 5], cache.length))
    assert torch.equal(logits[0], expected[0]) and torch.equal(logits[1], expected[1])


def test_rolling_back_forgets(runtime):
    cache = runtime.new_cache()
    runtime.prefill(cache, list(range(50)))
    cache.truncate(20)
    runtime.prefill(cache, [7, 8, 9])
    logits = runtime.forward(runtime.target, cache, Rows.chain([1], 23))[0]
    assert torch.equal(logits, _step_by_step(runtime, [*range(20), 7, 8, 9], [1])[0])


def test_a_small_full_cache_stays_finite(runtime):
    """Padding rows write spare slots that lie beside real ones: they must not poison them."""
    cache = runtime.new_cache(60)
    runtime.prefill(cache, list(range(59)))
    logits = runtime.forward(runtime.target, cache, Rows.chain([5], 59))
    assert torch.isfinite(logits).all()
    assert torch.equal(logits[0], _step_by_step(runtime, list(range(59)), [5])[0])
