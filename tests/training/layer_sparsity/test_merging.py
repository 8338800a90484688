"""Merged networks against unmerged ones, with layers made inactive at random."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autodraft.training.layer_sparsity import Networks, active_layers, merge_inactive, random_networks, sparse_depths
from autodraft.training.layer_sparsity.networks import stack


@st.composite
def networks(draw):
    """One run; some of its matrices, outer ones included, have no negative entries."""
    shape = draw(st.lists(st.integers(1, 6), min_size=3, max_size=9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    layers = []
    for layer in random_networks(1, shape, generator, torch.float64).layers:
        layer[..., -1] = torch.randn(layer.shape[:-1], generator=generator, dtype=torch.float64)
        layers.append(layer.abs() if draw(st.booleans()) else layer)
    return Networks(tuple(layers))


def _inputs(network, generator=None):
    generator = generator or torch.Generator().manual_seed(1)
    return 3 * torch.randn(1, 200, network.shape[0], generator=generator, dtype=torch.float64)


@given(networks())
def test_merging_keeps_the_function_and_the_active_layers(network):
    merged = merge_inactive(network)
    inputs = _inputs(network)
    expected = network(inputs)
    assert float((merged(inputs) - expected).abs().max()) <= 1e-9 * float(expected.abs().max())
    is_active = [bool((layer < 0).any()) for layer in network.layers[1:-1]]
    assert active_layers(network)[0].tolist() == is_active
    assert merged.depth == int(sparse_depths(network)[0]) == 1 + sum(is_active)
    # What is left may merge further: a product of an active and an inactive matrix can be without negative entries.
    assert merged.shape[0] == network.shape[0] and merged.shape[-1] == network.shape[-1]


@given(networks())
def test_merging_until_nothing_changes_still_keeps_the_function(network):
    merged = merge_inactive(network)
    while merged.depth > (shorter := merge_inactive(merged)).depth:
        merged = shorter
    inputs = _inputs(network)
    expected = network(inputs)
    assert float((merged(inputs) - expected).abs().max()) <= 1e-9 * float(expected.abs().max())


def test_positive_outer_layers_do_not_merge():
    """With relu(x) behind x of both signs, a merged network would be linear in x."""
    one = torch.tensor([[[1.0, 0.0]]])
    network = Networks((one, one))
    assert merge_inactive(network).depth == 1
    assert network(torch.tensor([[[-2.0], [2.0]]])).flatten().tolist() == [0.0, 2.0]


def test_a_negative_bias_keeps_a_layer_active():
    network = Networks((torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, -1.0]]]), torch.tensor([[[1.0, 0.0]]])))
    assert active_layers(network).tolist() == [[True]]
    assert merge_inactive(network)(torch.tensor([[[0.5], [3.0]]])).flatten().tolist() == [0.0, 2.0]


def test_depths_are_counted_run_by_run():
    generator = torch.Generator().manual_seed(0)
    deep, other = (random_networks(1, (3, 4, 4, 4, 1), generator) for _ in range(2))
    shallow = Networks((other.layers[0], other.layers[1].abs(), *other.layers[2:]))
    assert sparse_depths(stack([deep, shallow])).tolist() == [3, 2]
    with pytest.raises(ValueError, match="one run at a time"):
        merge_inactive(stack([deep, shallow]))


def test_networks_are_pytorchs_linear_layers_and_relus():
    network = random_networks(2, (3, 5, 4, 2), torch.Generator().manual_seed(0))
    inputs = torch.randn(2, 7, 3)
    for run in range(2):
        modules = []
        for layer in network.layers:
            module = torch.nn.Linear(layer.shape[2] - 1, layer.shape[1])
            module.weight.data, module.bias.data = layer[run, :, :-1], layer[run, :, -1]
            modules += [module, torch.nn.ReLU()]
        torch.testing.assert_close(network(inputs)[run], torch.nn.Sequential(*modules[:-1])(inputs[run]))
