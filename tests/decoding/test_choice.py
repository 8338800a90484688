"""`TargetChoice` chooses at each node what autoregressive decoding would choose there, from the noise it shows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autodraft.decoding import SamplingConfig, TargetChoice, TokenTree
from autodraft.decoding.noise import HostNoise
from autodraft.decoding.sampling import SeenTokens, filtered_scores
from tests.decoding.trees import token_trees

VOCAB = 6
PROMPT = [3, 0]
CPU = torch.device("cpu")
SAMPLED = SamplingConfig(temperature=0.8)
SETTINGS = [
    SamplingConfig(),
    SamplingConfig(repetition_penalty=1.5),
    SAMPLED,
    SamplingConfig(temperature=1.5, top_k=4, top_p=0.9, repetition_penalty=1.5),
]


@settings(deadline=None)
@given(token_trees(vocab_size=VOCAB), st.sampled_from(SETTINGS), st.integers(0, 2**20))
def test_verifying_a_tree_is_verifying_single_steps_along_the_path(tree, sampling, seed):
    logits = torch.randn(len(tree), VOCAB, generator=torch.Generator().manual_seed(seed)) * 2
    whole = TargetChoice(sampling, seed, [*PROMPT, tree.tokens[0]], VOCAB, CPU)
    path, bonus_token = whole.verify(tree, logits)
    stepwise = TargetChoice(sampling, seed, [*PROMPT, tree.tokens[0]], VOCAB, CPU)
    for node, following in zip(path, [*(tree.tokens[node] for node in path[1:]), bonus_token], strict=True):
        step = stepwise.verify(TokenTree.root_only(tree.tokens[node]), logits[node : node + 1])
        assert step == ([0], following)
        stepwise.commit([following])
    assert all(tree.tokens[child] != bonus_token for child in tree.children(path[-1]))


def test_the_choice_after_each_node_is_the_argmax_of_filtered_scores_and_shown_noise():
    sampling = SETTINGS[-1]
    choice = TargetChoice(sampling, 4, PROMPT, VOCAB, CPU)
    choice.commit([1, 5, 5])
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(0))
    temperature, noise = choice.noise(0, 2).temperature, choice.noise(0, 2).rows
    assert temperature == sampling.temperature and noise.shape == (2, VOCAB)
    assert np.array_equal(noise, HostNoise(4, VOCAB).rows(3, 2))
    assert np.array_equal(choice.noise(1, 1).rows, noise[1:])
    seen = SeenTokens([*PROMPT, 1, 5], VOCAB, "cpu").on_path([])
    first = int((filtered_scores(logits, sampling, seen)[0].numpy() + noise[0]).argmax())
    seen = SeenTokens([*PROMPT, 1, 5, first], VOCAB, "cpu").on_path([])
    second = int((filtered_scores(logits, sampling, seen)[0].numpy() + noise[1]).argmax())
    assert choice.verify(TokenTree((5, first), (-1, 0)), logits.repeat(2, 1)) == ([0, 1], second)
    choice.commit([first])
    assert np.array_equal(choice.noise(0, 1).rows, noise[1:])


def test_a_draft_of_the_targets_own_logits_and_noise_is_always_accepted():
    generator = torch.Generator().manual_seed(1)
    for seed in range(50):
        choice = TargetChoice(SAMPLED, seed, PROMPT, VOCAB, CPU)
        logits = torch.randn(4, VOCAB, generator=generator)
        noise = choice.noise(0, 3)
        scores = logits[:3].numpy() / np.float32(noise.temperature) + noise.rows
        tree = TokenTree.chain(PROMPT[-1], scores.argmax(-1).tolist())
        assert choice.verify(tree, logits).path == [0, 1, 2, 3]


@pytest.mark.parametrize("sampling", SETTINGS[:2])
def test_greedy_choices_have_no_noise(sampling):
    choice = TargetChoice(sampling, None, PROMPT, VOCAB, CPU)
    assert choice.noise(0, 3) is None
