"""Choosing inside the backends against plain PyTorch, and running a part of the model against all of it."""

import numpy as np
import pytest
import torch

from autodraft.errors import InputError
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.runtime import ChainStop, ChoiceNoise, Rows, build_runtime
from autodraft.runtime.choosing import ACCEPTANCE_BINS, acceptance_bin, best_tokens
from tests.runtime.tiny import tiny_model

PROMPT = [5, 17, 3, 80, 44, 17, 3]
DRAFT = DraftPolicy.uniform(3).replace({3: ChannelShares(), 4: ChannelShares()})


@pytest.fixture(scope="module", params=["native", "torch"])
def runtime(request):
    try:
        return build_runtime(tiny_model("llama"), max_length=64, backend=request.param)
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture
def cache(runtime):
    cache = runtime.new_cache()
    runtime.prefill(cache, PROMPT[:-1])
    return cache


@pytest.fixture
def noise(runtime):
    rows = -np.log(np.random.default_rng(0).standard_exponential((8, runtime.spec.vocab_size), dtype=np.float32))
    return ChoiceNoise(0.7, rows)


def assert_same(found, expected):
    assert [list(row.tokens) for row in found] == [list(row.tokens) for row in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert list(mine.probs) == pytest.approx(list(theirs.probs), rel=1e-4)


@pytest.mark.parametrize("noisy", [False, True])
def test_a_review_is_a_forward_and_the_best_tokens_of_its_rows(runtime, cache, noise, noisy):
    plan, rows = runtime.plan(DRAFT), Rows.tree([3, 9, 11, 60], [-1, 0, 0, 1], cache.length)
    how = (noise, [0, 1, 1, 2]) if noisy else (None, ())
    expected = best_tokens(runtime.forward(plan, cache, rows), 4, *how)
    assert_same(runtime.review(plan, cache, rows, 4, *how), expected)


@pytest.mark.parametrize("noisy", [False, True])
def test_the_targets_choices_are_the_best_tokens_of_its_logits(runtime, cache, noise, noisy):
    rows = Rows.tree([3, 9, 11, 60], [-1, 0, 0, 1], cache.length)
    how = (noise, [0, 1, 1, 2]) if noisy else (None, ())
    expected = runtime.forward(runtime.target, cache, rows)
    tokens, logits = runtime.choose(cache, rows, *how)
    assert torch.equal(logits, expected)
    assert tokens == [row.tokens[0] for row in best_tokens(expected, 1, *how)]


def test_the_best_tokens_of_logits(runtime, cache):
    logits = runtime.forward(runtime.target, cache, Rows.chain([3, 9], cache.length))
    assert runtime.best_tokens(logits, 5) == [list(each.tokens) for each in best_tokens(logits, 5)]


@pytest.mark.parametrize("noisy", [False, True])
def test_a_chain_is_one_review_after_the_other(runtime, cache, noise, noisy):
    plan = runtime.plan(DRAFT)
    fed, expected = [3, 9, 30], []
    for depth in range(6):
        offset = 0 if depth == 0 else 2 + depth
        rows = Rows.chain(fed if depth == 0 else [expected[-1].tokens[0]], cache.length + offset)
        how = (noise, [depth] * len(rows)) if noisy else (None, ())
        expected.append(runtime.review(plan, cache, rows, 3, *how)[-1])
    found = runtime.draft_chain(plan, cache, fed, 6, top=3, noise=noise if noisy else None)
    assert_same(found, expected)
    continued = runtime.draft_chain(plan, cache, [expected[0].tokens[0]], 5, offset=3, top=3)
    if not noisy:
        assert_same(continued, expected[1:])


def test_a_chain_ends_where_the_rule_says(runtime, cache):
    plan = runtime.plan(DRAFT)
    whole = runtime.draft_chain(plan, cache, PROMPT[-1:], 8)
    acceptance = [0.5 + 0.03 * index for index in range(ACCEPTANCE_BINS)]
    for least in (0.9, 0.4, 0.1, 0.01):
        reach, expected = 0.8, 0
        for candidate in whole:
            expected += 1
            reach *= acceptance[acceptance_bin(candidate.probs[0])]
            if reach < least:
                break
        stop = ChainStop(acceptance=acceptance, reach=0.8, least=least)
        assert len(runtime.draft_chain(plan, cache, PROMPT[-1:], 8, stop=stop)) == expected
    lowest = min(range(8), key=lambda index: whole[index].probs[0])
    stop = ChainStop(threshold=whole[lowest].probs[0] * 1.001)
    assert len(runtime.draft_chain(plan, cache, PROMPT[-1:], 8, stop=stop)) == lowest + 1
    tokens = [candidate.tokens[0] for candidate in whole]
    for last in (tokens[0], tokens[5]):
        found = runtime.draft_chain(plan, cache, PROMPT[-1:], 8, stop=ChainStop(last_tokens=(96, last)))
        assert [candidate.tokens[0] for candidate in found] == tokens[: tokens.index(last) + 1]


def test_sub_layers_run_one_by_one_are_the_whole_model(runtime, cache):
    rows = Rows.chain([3, 9, 30], cache.length)
    taps = runtime.hidden_states(cache, rows)
    stream = taps[0]
    for index in range(2 * runtime.spec.num_blocks):
        before = stream.clone()
        stream_after = runtime.run_sub_layers(runtime.target, cache, rows, stream, index, index + 1)
        assert torch.equal(stream, before)
        torch.testing.assert_close(stream_after, taps[index + 1])
        stream = stream_after
    torch.testing.assert_close(runtime.run_sub_layers(runtime.target, cache, rows, taps[1], 1, 5), taps[5])
    assert torch.equal(runtime.run_sub_layers(runtime.target, cache, rows, taps[2], 2, 2), taps[2])


def test_sub_layers_out_of_range_are_refused(runtime, cache):
    rows = Rows.chain([3], cache.length)
    with pytest.raises(ValueError, match="sub-layers 0 to 7 of 6"):
        runtime.run_sub_layers(runtime.target, cache, rows, torch.zeros(1, runtime.spec.hidden_size), 0, 7)
