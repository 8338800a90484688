"""Sampled output has the target's distribution, end to end: chi-square over every sequence of three tokens."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from autodraft.cascade import Cascade, PromptLookup, SelfDraft
from autodraft.decoding import CascadeDecoder, SamplingConfig
from autodraft.policy import ChannelShares, DraftPolicy
from tests.decoding.remembering import RememberingRuntime
from tests.decoding.test_sampling import hf_probabilities

PROMPT = [1, 5, 2, 1, 5]
VOCAB = 8
NEW_TOKENS = 3
DRAWS = 20_000

NO_ATTENTION = DraftPolicy.uniform(1).replace({0: ChannelShares()})
CHAIN = SelfDraft(policy=NO_ATTENTION, num_draft_tokens=2)
TREE = SelfDraft(policy=NO_ATTENTION, num_draft_tokens=2, branching=3, max_nodes=7)


def _sequence_probabilities(hf_model, sampling):
    """Probability of every sequence of three tokens, from the Hugging Face model and its own processors."""
    probs = {(): 1.0}
    for length in range(NEW_TOKENS):
        contexts = torch.tensor([[*PROMPT, *sequence] for sequence in itertools.product(range(VOCAB), repeat=length)])
        with torch.no_grad():
            logits = hf_model(contexts).logits[:, -1].float()
        following = hf_probabilities(logits, sampling, contexts).tolist()
        probs |= {
            (*context[len(PROMPT) :], token): probs[tuple(context[len(PROMPT) :])] * prob
            for context, row in zip(contexts.tolist(), following, strict=True)
            for token, prob in enumerate(row)
        }
    return {sequence: prob for sequence, prob in probs.items() if len(sequence) == NEW_TOKENS}


def chi_square_p(counts, probs):
    """p-value of observed counts; sequences expected fewer than 5 times are taken together."""
    draws = sum(counts.values())
    observed, expected, rare = [], [], np.zeros(2)
    for sequence, prob in probs.items():
        cell = np.array([counts[sequence], draws * prob])
        if cell[1] >= 5:
            observed.append(cell[0])
            expected.append(cell[1])
        else:
            rare += cell
    if rare[1] > 0:
        observed.append(rare[0])
        expected.append(rare[1])
    return stats.chisquare(observed, np.array(expected) * (sum(observed) / sum(expected))).pvalue


@pytest.mark.parametrize(
    ("cascade", "sampling"),
    [
        (Cascade(drafts=(CHAIN,)), SamplingConfig(temperature=1.0)),
        (Cascade(drafts=(TREE,)), SamplingConfig(temperature=0.7)),
        (Cascade(drafts=(TREE,)), SamplingConfig(temperature=1.5, top_p=0.8)),
        (Cascade(drafts=(PromptLookup(), CHAIN)), SamplingConfig(temperature=1.2, top_k=5, repetition_penalty=1.3)),
    ],
    ids=["chain", "tree", "tree, top-p", "cascade, top-k, penalty"],
)
def test_every_sequence_comes_as_often_as_the_target_says(small_hf_model, small_runtime, cascade, sampling):
    decoder = CascadeDecoder(RememberingRuntime(small_runtime), cascade)
    counts = Counter()
    accepted = cycles = 0
    for seed in range(DRAWS):
        generation = decoder.generate(PROMPT, max_new_tokens=NEW_TOKENS, sampling=sampling, seed=seed)
        counts[tuple(generation.tokens)] += 1
        accepted += generation.stats.accepted_tokens
        cycles += generation.stats.cycles
    probs = _sequence_probabilities(small_hf_model, sampling)
    assert all(probs[sequence] > 0 for sequence in counts)
    assert chi_square_p(counts, probs) > 0.001
    # Drafts were neither always nor never accepted, so paths, bonus tokens and rejections were all drawn from.
    assert accepted > DRAWS * 0.1 and DRAWS * 1.1 < cycles < DRAWS * NEW_TOKENS


def test_the_chi_square_notices_a_slightly_wrong_distribution(small_hf_model):
    probs = _sequence_probabilities(small_hf_model, SamplingConfig(temperature=1.0))
    wrong = _sequence_probabilities(small_hf_model, SamplingConfig(temperature=1.08))
    draws = np.random.default_rng(0).multinomial(DRAWS, np.array([*wrong.values()]) / sum(wrong.values()))
    assert chi_square_p(Counter(dict(zip(wrong, draws.tolist(), strict=True))), probs) < 1e-6


def test_remembering_changes_nothing(small_runtime):
    sampling = SamplingConfig(temperature=1.0)
    plain = CascadeDecoder(small_runtime, Cascade(drafts=(TREE,)))
    remembering = CascadeDecoder(RememberingRuntime(small_runtime), Cascade(drafts=(TREE,)))
    for seed in range(40):
        options = {"max_new_tokens": NEW_TOKENS, "sampling": sampling, "seed": seed}
        assert plain.generate(PROMPT, **options).tokens == remembering.generate(PROMPT, **options).tokens
