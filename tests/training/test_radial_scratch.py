"""Radial networks from scratch: what passing a block by means, and trainings that resume."""

import numpy as np
import pytest
import torch

from autodraft.errors import InputError
from autodraft.training.radial.scratch import ScratchRecipe, ScratchTrainer, held_out_score
from autodraft.training.radial.scratch_model import NetworkShape, RadialNetwork
from autodraft.training.texts import TextStreams

SIZES = {"vocab_size": 23, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48}


def shape(num_blocks: int = 4, router_width: int = 8) -> NetworkShape:
    return NetworkShape(num_blocks=num_blocks, router_width=router_width, **SIZES)


def random_network(changes: NetworkShape, seed: int = 0) -> RadialNetwork:
    network = RadialNetwork(changes, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 3 or "out.weight" in name or "down.weight" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return network


TOKENS = torch.randint(23, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def streams(one_thread) -> TextStreams:
    """A text in which each token says which one is next."""
    text = np.array([pow(5, position, 23) for position in range(4000)], dtype=np.int32)
    return TextStreams(text[:3000], text[3000:], "a rule")


def test_a_router_that_takes_every_block_is_the_sequential_network():
    radial, sequential = RadialNetwork(shape(), 1), RadialNetwork(shape(router_width=0), 1)
    logits, runs = radial(TOKENS)
    assert runs.sum(-1).eq(4).all()
    torch.testing.assert_close(logits, sequential(TOKENS)[0])


def test_tokens_differ_in_their_routes_and_see_nothing_of_later_ones():
    network = random_network(shape())
    logits, runs = network(TOKENS)
    assert runs.sum(-1).unique().numel() > 1
    later = TOKENS.clone()
    later[:, 8:] = (later[:, 8:] + 1) % 23
    torch.testing.assert_close(network(later)[0][:, :8], logits[:, :8])


def test_a_token_that_nobody_may_see_in_a_block_changes_nothing_there():
    block = random_network(shape()).blocks[0]
    x = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1))
    angles, present = torch.zeros(5, 8), torch.tensor([[True, False, True, True, True]])
    before = block(x, present, angles)
    x[:, 1] = 100.0
    torch.testing.assert_close(block(x, present, angles)[:, 2:], before[:, 2:])


def test_a_resumed_training_is_the_uninterrupted_one(streams, tmp_path):
    recipe = ScratchRecipe(shape(), 2.0, steps=6, window=16, batch=4)
    whole = ScratchTrainer(recipe, streams, tmp_path / "whole")
    whole.run()
    for _ in range(3):
        part = ScratchTrainer(recipe, streams, tmp_path / "parts")
        part.run(max_steps=2)
    for one, other in zip(whole.network.parameters(), part.network.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(InputError, match="other settings"):
        ScratchTrainer(ScratchRecipe(shape(), 3.0, steps=6), streams, tmp_path / "parts")


def test_it_learns_a_rule_with_the_blocks_it_may_use(streams, tmp_path):
    trainer = ScratchTrainer(ScratchRecipe(shape(), 2.0, steps=120, window=16, batch=8), streams, tmp_path)
    before = held_out_score(trainer, streams, 16)["loss"]
    trainer.run()
    score = held_out_score(trainer, streams, 16)
    assert score["loss"] < before - 1.0, score
    assert score["blocks"] <= 2.3
