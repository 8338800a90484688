"""Sampled output has the target's distribution, end to end: chi-square over every sequence of three tokens."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from autodraft.cascade import Cascade, PromptLookup, SelfDraft, StaticTree
from autodraft.decoding import CascadeDecoder, SamplingConfig, ScheduledDrafter
from autodraft.policy import ChannelShares, DraftPolicy
from tests.decoding.chi_square import chi_square_p
from tests.decoding.test_sampling import hf_probabilities

PROMPT = [1, 5, 2, 1, 5]
VOCAB = 8
NEW_TOKENS = 3
DRAWS = 8_000

NO_ATTENTION = DraftPolicy.uniform(1).replace({0: ChannelShares()})
DRAFT = SelfDraft(policy=NO_ATTENTION, num_draft_tokens=2)
TREE = StaticTree(branching=3, max_nodes=7)


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


@pytest.mark.parametrize(
    ("cascade", "sampling"),
    [
        (Cascade(drafts=(DRAFT,)), SamplingConfig(temperature=1.0)),
        (Cascade(drafts=(DRAFT,), scheduler=TREE), SamplingConfig(temperature=0.7)),
        (Cascade(drafts=(DRAFT,), scheduler=TREE), SamplingConfig(temperature=1.5, top_p=0.8)),
        (Cascade(drafts=(PromptLookup(), DRAFT)), SamplingConfig(temperature=1.2, top_k=5, repetition_penalty=1.3)),
    ],
    ids=["chain", "tree", "tree, top-p", "cascade, top-k, penalty"],
)
def test_every_sequence_comes_as_often_as_the_target_says(small_hf_model, small_runtime, cascade, sampling):
    # Unguarded: it drafts even where that does not pay, as on a model this small.
    decoder = CascadeDecoder(small_runtime, drafter=ScheduledDrafter(small_runtime, cascade, guarded=False))
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
    assert accepted > DRAWS * 0.1 and DRAWS * 1.02 < cycles < DRAWS * NEW_TOKENS


def test_the_chi_square_notices_a_slightly_wrong_distribution(small_hf_model):
    probs = _sequence_probabilities(small_hf_model, SamplingConfig(temperature=1.0))
    wrong = _sequence_probabilities(small_hf_model, SamplingConfig(temperature=1.08))
    draws = np.random.default_rng(0).multinomial(DRAWS, np.array([*wrong.values()]) / sum(wrong.values()))
    assert chi_square_p(Counter(dict(zip(wrong, draws.tolist(), strict=True))), probs) < 1e-6
