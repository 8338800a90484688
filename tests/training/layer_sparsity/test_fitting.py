"""Training: runs do not touch each other, divergence keeps the last good state, a planted depth is found."""

import pytest
import torch

from autodraft.training.layer_sparsity import (
    FitOptions,
    Networks,
    Samples,
    fit,
    random_networks,
    refit,
    sparse_depths,
    squared_errors,
)
from autodraft.training.layer_sparsity.networks import stack

OPTIONS = FitOptions(num_steps=60)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _planted(num_runs, depth, num_samples, seed):
    """Targets of variance one from random networks of width 4 on three features, without noise."""
    generator = _generator(seed)
    truth = random_networks(num_runs, (3, *[4] * depth, 1), generator)
    inputs = torch.randn(num_runs, num_samples, 3, generator=generator)
    targets = truth(inputs)
    return Samples(inputs, (targets - targets.mean(1, keepdim=True)) / targets.std(1, keepdim=True))


@pytest.fixture(scope="module")
def data():
    return _planted(3, 2, 60, seed=1), _planted(3, 2, 30, seed=2)


def test_runs_side_by_side_are_runs_alone(data):
    start = random_networks(3, (3, 4, 4, 1), _generator())
    penalty = torch.tensor([0.0, 0.05, 1.0])
    together = fit(start, *data, penalty, OPTIONS, _generator())
    for run in range(3):
        index = torch.tensor([run])
        parts = (part.select(index) for part in data)
        alone = fit(start.select([run]), *parts, penalty[index], OPTIONS, _generator())
        torch.testing.assert_close(alone.validation_loss, together.validation_loss[index])
        for one, several in zip(alone.networks.layers, together.networks.layers, strict=True):
            torch.testing.assert_close(one, several[index], rtol=1e-4, atol=1e-5)


def test_training_starts_from_the_networks_given_and_never_ends_worse_on_the_validation_part(data):
    start = random_networks(3, (3, 4, 4, 1), _generator())
    before = [layer.clone() for layer in start.layers]
    fitted = fit(start, *data, torch.zeros(3), OPTIONS, _generator())
    assert all(torch.equal(layer, kept) for layer, kept in zip(start.layers, before, strict=True))
    assert (fitted.validation_loss <= squared_errors(start, data[1]).mean(1)).all()
    torch.testing.assert_close(squared_errors(fitted.networks, data[1]).mean(1), fitted.validation_loss)
    assert not fitted.has_diverged.any()


def test_a_run_that_diverges_keeps_its_last_good_state_and_leaves_the_others_alone(data):
    start = random_networks(3, (3, 4, 4, 1), _generator())
    healthy = fit(start, *data, torch.zeros(3), OPTIONS, _generator())
    training = Samples(data[0].inputs.clone(), data[0].targets.clone())
    training.targets[1] = float("inf")
    fitted = fit(start, training, data[1], torch.zeros(3), OPTIONS, _generator())
    assert fitted.has_diverged.tolist() == [False, True, False]
    assert all(torch.equal(layer[1], kept[1]) for layer, kept in zip(fitted.networks.layers, start.layers, strict=True))
    torch.testing.assert_close(fitted.validation_loss[[0, 2]], healthy.validation_loss[[0, 2]])


def test_batches_cover_the_samples_pass_by_pass():
    samples = Samples(torch.arange(10.0).reshape(1, 10, 1), torch.arange(10.0).reshape(1, 10, 1))
    batches = samples.batches(5, _generator())
    for _ in range(3):
        seen = torch.cat([next(batches).inputs.flatten(), next(batches).inputs.flatten()])
        assert sorted(seen.tolist()) == list(range(10))
    assert next(samples.batches(10, _generator())) is samples


def test_refitting_keeps_runs_in_order_and_their_depth(data):
    generator = _generator()
    runs = []
    for linear in ((1,), (), (1, 2)):
        layers = random_networks(1, (3, 4, 4, 4, 1), generator).layers
        runs.append(Networks(tuple(layer.abs() if index in linear else layer for index, layer in enumerate(layers))))
    start = stack(runs)
    refitted = refit(start, *data, OPTIONS, _generator())
    assert [network.depth for network in refitted.networks] == sparse_depths(start).tolist() == [2, 3, 1]
    assert (refitted.validation_loss <= squared_errors(start, data[1]).mean(1) + 1e-6).all()
    for run, network in enumerate(refitted.networks):
        loss = squared_errors(network, data[1].select(torch.tensor([run]))).mean()
        torch.testing.assert_close(loss, refitted.validation_loss[run])


def test_one_hidden_layer_is_found_in_a_student_of_six():
    num_runs = 4
    everything = _planted(num_runs, 1, 700, seed=3)
    training, validation, test = (
        Samples(everything.inputs[:, rows], everything.targets[:, rows])
        for rows in (slice(0, 100), slice(100, 200), slice(200, 700))
    )
    options = FitOptions(num_steps=500, learning_rate=0.02)
    start = random_networks(num_runs, (3, *[8] * 6, 1), _generator(4))
    plain = fit(start, training, validation, torch.zeros(num_runs), options, _generator())
    sparse = fit(start, training, validation, torch.full((num_runs,), 0.3), options, _generator())
    assert sparse_depths(plain.networks).tolist() == [6] * num_runs
    assert sparse_depths(sparse.networks).tolist() == [1] * num_runs
    refitted = stack(refit(sparse.networks, training, validation, options, _generator()).networks)
    errors = [float(squared_errors(networks, test).mean()) for networks in (plain.networks, sparse.networks, refitted)]
    assert errors[2] < errors[0] and errors[2] < errors[1] and errors[2] < 0.05, errors
