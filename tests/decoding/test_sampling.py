"""From logits to tokens: the same distributions as Hugging Face's processors, and exact choice from them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from autodraft.decoding import SamplingConfig, choose, probabilities
from autodraft.decoding.sampling import SeenTokens, UniformStream, penalise
from autodraft.errors import InputError
from tests.decoding.trees import token_trees


def hf_probabilities(logits, config, context):
    processors = LogitsProcessorList()
    if config.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(config.temperature))
    if config.top_k:
        processors.append(TopKLogitsWarper(config.top_k))
    if config.top_p < 1.0:
        processors.append(TopPLogitsWarper(config.top_p))
    return torch.softmax(processors(context, logits), -1)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([0.3, 1.0, 1.7]),
    st.sampled_from([0, 1, 5, 400]),
    st.sampled_from([0.05, 0.6, 0.93, 1.0]),
    st.sampled_from([1.0, 1.3]),
)
def test_same_distribution_as_hugging_face(seed, temperature, top_k, top_p, repetition_penalty):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 50, generator=generator) * 4
    context = torch.randint(0, 50, (1, 9), generator=generator)
    config = SamplingConfig(temperature, top_k, top_p, repetition_penalty)
    seen = SeenTokens(context[0].tolist(), 50, "cpu").rows([int(context[0, -1])] * 3, [-1] * 3)
    ours = probabilities(logits, config, seen)
    assert torch.allclose(ours, hf_probabilities(logits, config, context.expand(3, -1)).double(), atol=1e-6)
    assert torch.allclose(ours.sum(-1), torch.ones(3, dtype=torch.float64))


def test_ties_at_the_top_k_boundary_are_all_kept_as_by_hugging_face():
    probs = probabilities(torch.tensor([[1.0, 2.0, 1.0, 0.0]]), SamplingConfig(temperature=1.0, top_k=2))
    assert (probs > 0).tolist() == [[True, True, True, False]]


def test_top_p_over_a_vocabulary_that_needs_a_whole_sort():
    logits = torch.randn(4, 3000, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[0.01], [0.3], [2.0], [9.0]]
    )
    config = SamplingConfig(temperature=1.0, top_p=0.97)
    ours = probabilities(logits, config)
    assert torch.allclose(
        ours, hf_probabilities(logits, config, torch.zeros(4, 1, dtype=torch.long)).double(), atol=1e-6
    )
    # A row's distribution does not depend on the rows beside it.
    assert all(torch.equal(probabilities(logits[row : row + 1], config)[0], ours[row]) for row in range(4))


def test_greedy_gives_all_probability_to_the_argmax():
    probs = probabilities(torch.tensor([[0.0, 3.0, 1.0]]), SamplingConfig())
    assert probs.tolist() == [[0.0, 1.0, 0.0]]


@given(token_trees(vocab_size=6), st.lists(st.integers(0, 5), min_size=1, max_size=3))
def test_the_penalty_of_a_node_covers_context_and_path(tree, context):
    seen = SeenTokens(context, 6, "cpu")
    seen.add(tree.tokens[:1])
    rows = seen.rows(tree.tokens, tree.parents)
    for node in range(len(tree)):
        expected = {*context, *(tree.tokens[ancestor] for ancestor in tree.path(node))}
        assert set(rows[node].nonzero().flatten().tolist()) == expected
    logits = torch.linspace(-2, 2, 6).repeat(len(tree), 1)
    assert torch.equal(penalise(logits, 1.0, rows), logits)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6).filter(any), st.floats(0, 1, exclude_max=True))
def test_choose_inverts_the_distribution_function(weights, uniform):
    probs = torch.tensor([weights], dtype=torch.float64) / sum(weights)
    (token,) = choose(probs, [uniform])
    assert probs[0, token] > 0
    below = float(probs[0, :token].sum())
    assert below - 1e-12 <= uniform <= below + float(probs[0, token]) + 1e-12


def test_choose_never_leaves_the_support_at_the_edges():
    probs = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    assert choose(probs.repeat(3, 1), [0.0, 0.5, 1 - 2**-53]) == [1, 1, 1]
    thirds = torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0.0]], dtype=torch.float64)
    assert choose(thirds.repeat(2, 1), [1 - 2**-53, 1.0]) == [2, 2]


def test_uniform_numbers_depend_on_seed_and_position_only():
    forwards, backwards = UniformStream(5), UniformStream(5)
    assert [forwards.at(0), forwards.at(1), forwards.at(7)] == [backwards.at(7), backwards.at(1), backwards.at(0)][::-1]
    assert UniformStream(6).at(0) != forwards.at(0)
    assert UniformStream(None).at(0) != UniformStream(None).at(0)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_k": 2.5},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"repetition_penalty": 0.0},
    ],
)
def test_settings_that_mean_nothing_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        SamplingConfig(**options)
