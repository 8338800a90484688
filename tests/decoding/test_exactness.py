"""Sampled output of every cascade equals the autoregressive one for every noise of a finite set."""

import pytest
import torch

from autodraft.decoding import CascadeDecoder, SamplingConfig, ScheduledDrafter
from autodraft.runtime import build_runtime
from tests.decoding.drafts import CASCADES, HostileDrafter
from tests.decoding.enumeration import every_noise, given_noise, outputs
from tests.runtime.tiny import tiny_model

VOCAB = 3
POSITIONS = 3
PROMPT = [0, 2, 1, 0, 2]
# Entries of the noise; with them every sequence of three tokens is the output for some noise.
NOISES = list(every_noise(VOCAB, POSITIONS, (0.0, 3.0)))
SAMPLINGS = {
    "sampled": SamplingConfig(temperature=0.5),
    "sampled, filtered": SamplingConfig(temperature=0.6, top_k=2, repetition_penalty=1.05),
}


@pytest.fixture(scope="module")
def runtime():
    """Three blocks, 3 tokens."""
    return build_runtime(tiny_model("llama", seed=2, vocab_size=VOCAB), max_length=32)


@pytest.fixture(scope="module")
def reference(runtime):
    """Autoregressive output for every noise, by sampling."""
    return {
        name: outputs(lambda: CascadeDecoder(runtime), PROMPT, NOISES, POSITIONS, sampling)[0]
        for name, sampling in SAMPLINGS.items()
    }


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("cascade", CASCADES)
def test_output_is_the_autoregressive_one_for_every_noise(runtime, reference, cascade, sampling):
    # Unguarded: it drafts even where that does not pay, as on a model this small.
    drafter = ScheduledDrafter(runtime, CASCADES[cascade], guarded=False)
    found, _ = outputs(lambda: CascadeDecoder(runtime, drafter=drafter), PROMPT, NOISES, POSITIONS, SAMPLINGS[sampling])
    assert found == reference[sampling]


@pytest.mark.parametrize("draft", ["chain, target itself", "tree"])
def test_drafts_that_share_the_noise_are_mostly_accepted(runtime, draft):
    """So that the enumeration is about accepted drafts too: 2 tokens of 3 can be drafted, or fewer per cycle."""
    drafter = ScheduledDrafter(runtime, CASCADES[draft], guarded=False)
    _, accepted = outputs(
        lambda: CascadeDecoder(runtime, drafter=drafter), PROMPT, NOISES, POSITIONS, SAMPLINGS["sampled"]
    )
    assert accepted > 1.2 * len(NOISES)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_arbitrary_trees_change_nothing_for_any_noise(runtime, reference, sampling):
    for seed in range(3):
        found, accepted = outputs(
            lambda seed=seed: CascadeDecoder(runtime, drafter=HostileDrafter(VOCAB, seed)),
            PROMPT,
            NOISES,
            POSITIONS,
            SAMPLINGS[sampling],
        )
        assert found == reference[sampling]
        assert accepted > len(NOISES) / 4


def test_autoregressive_output_is_the_argmax_of_perturbed_hugging_face_logits(reference):
    """The reference itself, by definition and by another implementation of the model."""
    model = tiny_model("llama", seed=2, vocab_size=VOCAB)
    temperature = SAMPLINGS["sampled"].temperature
    for noise, found in zip(NOISES, reference["sampled"], strict=True):
        context = list(PROMPT)
        for token, row in zip(found, torch.from_numpy(noise), strict=True):
            with torch.no_grad():
                scores = model(torch.tensor([context])).logits[0, -1].float() / temperature + row
            assert scores.max() - scores[token] < 1e-4
            context.append(token)


def test_every_sequence_is_the_output_for_some_noise(reference):
    assert len(set(reference["sampled"])) == VOCAB**POSITIONS
    assert len(set(reference["sampled, filtered"])) > 4


def test_the_noise_given_is_the_noise_used(runtime):
    decoder = CascadeDecoder(runtime)
    noise = NOISES[0].copy()
    noise[range(POSITIONS), [2, 0, 1]] = 1000.0
    with given_noise(noise):
        assert decoder.generate(PROMPT, max_new_tokens=3, sampling=SAMPLINGS["sampled"]).tokens == [2, 0, 1]
