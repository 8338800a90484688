"""Whole models on every instruction set: Hugging Face's own logits, and the low bits of the best one."""

from functools import partial

import pytest
import torch

from autodraft.policy import DraftPolicy
from autodraft.runtime import Rows
from tests.runtime.instruction_sets import INSTRUCTION_SETS, build_on
from tests.runtime.tiny import tiny_model

TOKENS = [5, 17, 3, 80, 44, 17, 3, 61, 9, 30]


@pytest.fixture(scope="module", params=INSTRUCTION_SETS)
def build(request):
    """Builds runtimes on one instruction set."""
    return partial(build_on, request.param, max_length=64)


@pytest.mark.parametrize("family", ["llama", "llama-head-dim", "qwen2", "qwen3", "opt"])
def test_logits_are_those_of_hugging_face(build, family):
    model = tiny_model(family)
    runtime = build(model)
    found = runtime.forward(runtime.target, runtime.new_cache(), Rows.chain(TOKENS, 0))
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    cache = runtime.new_cache()
    assert runtime.choose(cache, Rows.chain(TOKENS, 0))[0] == expected.argmax(-1).tolist()


@pytest.mark.parametrize("bits", [8, 4])
def test_low_bits_round_alike_everywhere(build, bits):
    """To what floats add up differently: rounding inputs to bytes is a step, which a last bit may take."""
    model, policy = tiny_model("llama-head-dim"), DraftPolicy.uniform(3, bits)
    logits = []
    for runtime in (build(model), build_on("native", model, max_length=64)):
        logits.append(runtime.forward(runtime.plan(policy), runtime.new_cache(), Rows.chain(TOKENS, 0)))
    assert (logits[0] - logits[1]).abs().mean() < 0.02 * logits[1].std()
