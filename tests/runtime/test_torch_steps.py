"""Steps of fixed shape against passes that are made anew for every call."""

import gc

import numpy as np
import pytest
import torch

from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.runtime import ChainStop, ChoiceNoise, Rows, build_runtime
from tests.runtime.tiny import tiny_model

TOKENS = [(7 * position) % 97 for position in range(720)]
DRAFT = DraftPolicy.uniform(3).replace({3: ChannelShares(), 4: ChannelShares(full=8)})


@pytest.fixture(scope="module")
def runtime():
    return build_runtime(tiny_model("llama", max_position_embeddings=800), backend="torch")


def _filled(runtime, length):
    cache = runtime.new_cache()
    runtime.prefill(cache, TOKENS[:length])
    return cache


def _anew(runtime, plan, cache, rows):
    """A pass that is watched takes no step of fixed shape."""
    taps = torch.empty((2 * runtime.spec.num_blocks + 1, len(rows), runtime.spec.hidden_size))
    return runtime._backend.forward(plan, cache, rows, taps=taps)


@pytest.mark.parametrize("policy", [DraftPolicy.uniform(3), DRAFT], ids=["target", "draft"])
@pytest.mark.parametrize("length", [1, 250, 260, 700])
def test_a_step_is_a_pass_to_the_bit(runtime, policy, length):
    """Whatever it was used for before, and however many more keys it could see."""
    plan, cache = runtime.plan(policy), _filled(runtime, length)
    for rows in (
        Rows.chain([5, 6, 7, 8], length),
        Rows.chain([9], length),
        Rows.tree([5, 6, 7, 8, 9], [-1, 0, 0, 1, 2], length),
        Rows.tree([5, 6, 7], [-1, 0, 0], length, first=1),
    ):
        assert torch.equal(runtime.forward(plan, cache, rows), _anew(runtime, plan, cache, rows))


def test_what_a_step_returned_is_the_callers(runtime):
    cache = _filled(runtime, 20)
    first = runtime.forward(runtime.target, cache, Rows.chain([5], 20))
    kept = first.clone()
    runtime.forward(runtime.target, cache, Rows.chain([6], 20))
    assert torch.equal(first, kept)


def test_a_chain_may_reach_the_end_of_the_cache(runtime):
    length = runtime.max_length - 6
    cache = runtime.new_cache()
    runtime.prefill(cache, [*TOKENS, *TOKENS[: length - len(TOKENS)]])
    plan, expected, token = runtime.plan(DRAFT), [], 3
    for position in range(length, runtime.max_length):
        token = int(_anew(runtime, plan, cache, Rows.chain([token], position))[0].argmax())
        expected.append(token)
    found = runtime.draft_chain(plan, cache, [3], 6)
    assert [candidates.tokens[0] for candidates in found] == expected


@pytest.mark.parametrize("threshold", [0.0, 0.3])
@pytest.mark.parametrize("sampled", [False, True])
def test_drafting_ahead_changes_no_chain(threshold, sampled):
    """As a device does that is not waited for after every token."""
    rows = np.random.default_rng(1).gumbel(size=(9, 97)).astype(np.float32)
    noise = ChoiceNoise(0.8, rows) if sampled else None
    chains = []
    for ahead in (0, 1, 3):
        runtime = build_runtime(tiny_model("llama"), max_length=64, backend="torch")
        runtime._backend._capture.ahead = ahead
        plan, cache = runtime.plan(DRAFT), _filled(runtime, 10)
        chains.append(runtime.draft_chain(plan, cache, [3, 9], 9, top=2, stop=ChainStop(threshold), noise=noise))
    assert chains[0] == chains[1] == chains[2]


def test_steps_go_with_the_plan_and_the_cache_that_they_are_for():
    runtime = build_runtime(tiny_model("llama"), max_length=64, backend="torch")
    steps = runtime._backend._steps
    first, second = _filled(runtime, 4), _filled(runtime, 4)
    draft = runtime.plan(DRAFT)
    for plan, cache in ((runtime.target, first), (runtime.target, second), (draft, first)):
        runtime.forward(plan, cache, Rows.chain([3], 4))
    assert [len(steps[plan]) for plan in (runtime.target, draft)] == [2, 1]
    del second, cache
    gc.collect()
    assert [len(steps[plan]) for plan in (runtime.target, draft)] == [1, 1]
    runtime._plans.popitem()
    del draft, plan
    gc.collect()
    assert list(steps) == [runtime.target]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_captured_steps_give_what_the_cpu_gives():
    expected, captured = (
        build_runtime(tiny_model("llama").to(device), max_length=64, backend="torch") for device in ("cpu", "cuda")
    )
    caches = [_filled(runtime, 20) for runtime in (expected, captured)]
    for rows in (Rows.chain([5, 6, 7], 20), Rows.chain([9], 20)):
        logits = [
            runtime.forward(runtime.target, cache, rows).cpu()
            for runtime, cache in zip((expected, captured), caches, strict=True)
        ]
        torch.testing.assert_close(logits[1], logits[0], rtol=1e-3, atol=1e-3)
    chains = [
        [candidates.tokens[0] for candidates in runtime.draft_chain(runtime.plan(DRAFT), cache, [5, 6], 9)]
        for runtime, cache in zip((expected, captured), caches, strict=True)
    ]
    assert chains[1] == chains[0]
