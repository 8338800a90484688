"""From logits to tokens: the same distributions as Hugging Face's processors, and exact choice from them."""

import itertools
from collections import Counter

import numpy as np
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

from autodraft.decoding import SamplingConfig, probabilities
from autodraft.decoding.noise import HostNoise
from autodraft.decoding.sampling import SeenTokens, choose, filtered_scores, penalise
from autodraft.errors import InputError
from tests.decoding.chi_square import chi_square_p


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
    seen = SeenTokens(context[0, :6].tolist(), 50, "cpu").on_path(context[0, 6:].tolist())
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
    scores = filtered_scores(logits, config)
    assert all(torch.equal(filtered_scores(logits[row : row + 1], config)[0], scores[row]) for row in range(4))


def test_greedy_gives_all_probability_to_the_argmax():
    probs = probabilities(torch.tensor([[0.0, 3.0, 1.0]]), SamplingConfig())
    assert probs.tolist() == [[0.0, 1.0, 0.0]]


def test_the_penalty_is_for_context_output_and_path():
    seen = SeenTokens([4, 1], 6, "cpu")
    seen.add([2])
    assert seen.on_path([5, 1]).tolist() == [[False, True, True, False, True, True]]
    assert seen.on_path([]).tolist() == [[False, True, True, False, True, False]]
    logits = torch.linspace(-2, 2, 6).unsqueeze(0)
    assert torch.equal(penalise(logits, 1.0, seen.on_path([])), logits)


DRAWS = 30_000
LOGITS = torch.tensor([[2.0, 0.5, -1.0, 1.5, -3.0, 0.0, 2.1, 1.0]])


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(temperature=1.0),
        SamplingConfig(temperature=0.4),
        SamplingConfig(temperature=2.0, top_k=5),
        SamplingConfig(temperature=1.3, top_p=0.8),
        SamplingConfig(temperature=0.9, top_k=6, top_p=0.95, repetition_penalty=1.4),
    ],
    ids=["1", "0.4", "top-k", "top-p", "all"],
)
def test_tokens_are_chosen_as_often_as_they_are_probable(config):
    seen = SeenTokens([0, 2], 8, "cpu").on_path([3])
    scores = filtered_scores(LOGITS, config, seen)[0]
    counts = Counter(choose(scores, row) for row in HostNoise(3, 8).rows(0, DRAWS))
    probs = dict(enumerate(hf_probabilities(LOGITS, config, torch.tensor([[0, 2, 3]]))[0].tolist()))
    assert all(probs[token] > 0 for token in counts)
    assert chi_square_p(counts, probs) > 0.001


def test_rare_tokens_of_a_large_vocabulary_come_as_often_as_they_are_probable():
    """One token of probability 1/2, and thousands of 1/8000 each."""
    scores = torch.zeros(4001)
    scores[17] = float(np.log(4000))
    chosen = np.array([choose(scores, row) for row in HostNoise(1, 4001).rows(0, 4000)])
    assert abs((chosen == 17).mean() - 0.5) < 0.03
    rare = chosen[chosen != 17]
    assert 0.47 < (rare < 2000).mean() < 0.53 and 1100 < len(set(rare.tolist())) < 1900


@settings(deadline=None)
@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=6), st.integers(0, 2**31), st.data())
def test_filtered_tokens_are_never_chosen(values, seed, data):
    scores = torch.tensor(values)
    kept = data.draw(st.sets(st.integers(0, len(values) - 1), min_size=1))
    scores[[token for token in range(len(values)) if token not in kept]] = -torch.inf
    assert all(choose(scores, row) in kept for row in HostNoise(seed, len(values)).rows(0, 20))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_best_perturbed_tokens_are_a_sample_without_replacement(count):
    """The law of Plackett and Luce: each next token is drawn from what is left (Kool et al., arXiv 1903.06059)."""
    scores = np.array([0.3, 1.2, -0.8, 0.0], dtype=np.float32)
    noise = HostNoise(8, 4).rows(0, DRAWS)
    counts = Counter(map(tuple, np.argsort(-(scores + noise), axis=1)[:, :count].tolist()))
    weights = np.exp(scores.astype(float))
    law = {}
    for order in itertools.permutations(range(4), count):
        left, prob = weights.sum(), 1.0
        for token in order:
            prob *= weights[token] / left
            left -= weights[token]
        law[order] = prob
    assert sum(law.values()) == pytest.approx(1)
    assert chi_square_p(counts, law) > 0.001


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
