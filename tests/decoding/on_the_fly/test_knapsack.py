"""The dynamic programme against brute force over all subsets."""

import itertools

import pytest
import torch

from autodraft.decoding import DraftContext
from autodraft.decoding.on_the_fly import OnTheFlySettings, best_paths, pareto_front
from autodraft.decoding.on_the_fly.costs import OnlineCosts
from autodraft.decoding.on_the_fly.hidden_states import KnapsackProposals
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.runtime import Rows

TOKENS = [3, 14, 15, 92, 65, 35, 89, 79, 32]


@pytest.fixture
def cache(runtime):
    cache = runtime.new_cache()
    runtime.prefill(cache, TOKENS[:-1])
    return cache


def _runner(runtime, cache, calls=None):
    """One state after the other, in one and the same slot."""
    rows = Rows.chain(TOKENS[-1:], cache.length)

    def run(index, bits, streams):
        if calls is not None:
            calls.append(len(streams))
        plan = runtime.plan(DraftPolicy.uniform(runtime.spec.num_blocks, bits))
        return torch.stack([runtime.run_sub_layers(plan, cache, rows, s, index, index + 1) for s in streams])

    return run


def _brute_force(runtime, cache, weights, stream):
    """Cosine of every combination of choices to the target's last stream, each by a forward pass of its own policy."""
    cosines = {}
    for bits in itertools.product(*weights):
        policy = DraftPolicy.from_sub_layers(map(ChannelShares.all_at, bits))
        rows = Rows.chain(TOKENS[-1:], cache.length)
        last = runtime.run_sub_layers(runtime.plan(policy), cache, rows, stream[0], 0, len(bits))
        cosines[bits] = float(torch.cosine_similarity(last, stream[-1], dim=-1))
    return cosines


@pytest.mark.parametrize("bits", [(16,), (16, 4)])
def test_with_a_level_for_every_combination_it_is_brute_force(runtime, cache, bits):
    # Powers of the number of choices: no two combinations weigh the same, so that no state is dropped.
    base = len(bits) + 1
    kept = [{0: 0.0, **{b: float((k + 1) * base**index) for k, b in enumerate(bits)}} for index in range(6)]
    # The first and the last sub-layer have to run.
    weights = [{b: w for b, w in choices.items() if b or 0 < i < 5} for i, choices in enumerate(kept)]
    levels = int(sum(max(choices.values()) for choices in weights))
    stream = runtime.hidden_states(cache, Rows.chain(TOKENS[-1:], cache.length))
    paths = best_paths(weights, stream, _runner(runtime, cache), levels=levels)
    truth = _brute_force(runtime, cache, weights, stream)
    assert {path.bits for path in paths} == set(truth)
    for path in paths:
        assert path.cosine == pytest.approx(truth[path.bits], abs=1e-5)
        assert path.weight == sum(weights[index][b] for index, b in enumerate(path.bits))
    for budget in sorted({path.weight for path in paths}):
        best = max(cosine for bits_, cosine in truth.items() if _weight(weights, bits_) <= budget)
        assert max(path.cosine for path in paths if path.weight <= budget) == pytest.approx(best, abs=1e-5)


def _weight(weights, bits):
    return sum(weights[index][b] for index, b in enumerate(bits))


@pytest.mark.parametrize("levels", [1, 3, 6, 17])
def test_the_budget_for_everything_returns_the_target_itself(runtime, cache, levels):
    weights = [{0: 0.0, 8: 0.55, 16: 1.0}] * 6
    stream = runtime.hidden_states(cache, Rows.chain(TOKENS[-1:], cache.length))
    calls = []
    paths = best_paths(weights, stream, _runner(runtime, cache, calls), levels=levels)
    assert paths[-1].bits == (16,) * 6 and paths[-1].cosine == pytest.approx(1.0, abs=1e-6)
    assert max(calls) <= levels + 1  # states of a column
    assert len(paths) <= levels + 1 and [p.weight for p in paths] == sorted(p.weight for p in paths)


def test_a_world_with_a_known_answer():
    """Streams in the plane; sub-layer i turns them by angles[i], at 4 bits by a third more. Cosine = angle missed."""
    angles = [0.1, 0.4, 0.05, 0.3]

    def turn(streams, angle):
        c, s = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
        return streams @ torch.tensor([[c, s], [-s, c]])

    truth = [torch.tensor([[1.0, 0.0]])]
    for angle in angles:
        truth.append(turn(truth[-1], angle))
    factor = {16: 1.0, 4: 4 / 3}
    weights = [{0: 0.0, 4: 1.0, 16: 3.0}] * 4
    paths = best_paths(weights, torch.stack(truth), lambda i, b, s: turn(s, factor[b] * angles[i]), levels=12)
    by_weight = {path.weight: path for path in paths}
    for weight, path in by_weight.items():
        combos = [bits for bits in itertools.product(*weights) if _weight(weights, bits) == weight]
        # Exact up to the Markov assumption; here turning angles simply add up.
        missed = [abs(sum(a - factor.get(b, 0.0) * a for a, b in zip(angles, bits, strict=True))) for bits in combos]
        assert path.cosine <= torch.cos(torch.tensor(min(missed))) + 1e-6
    assert by_weight[0.0].bits == (0, 0, 0, 0)
    assert by_weight[1.0].bits == (0, 4, 0, 0) and by_weight[2.0].bits == (0, 4, 0, 4)
    front = pareto_front(paths)
    assert [p.cosine for p in front] == sorted(p.cosine for p in front) and front[-1].cosine == pytest.approx(1.0)


@pytest.mark.parametrize("reference_tokens", [1, 2])
def test_states_packed_into_one_call_are_the_states_one_by_one(runtime, cache, reference_tokens):
    settings = OnTheFlySettings(mode="knapsack", levels=5, reference_tokens=reference_tokens)
    costs = OnlineCosts(runtime)
    proposals = KnapsackProposals(runtime, costs, settings)
    context = DraftContext(list(TOKENS), cache, 10, 10)
    found = proposals.solve(context)
    assert found and all(not policy.is_full for policy in found)
    assert all(not policy.sub_layers[index].is_skipped for policy in found for index in (0, 1, 4, 5))
    if reference_tokens == 1:
        weights = proposals._weights()
        stream = runtime.hidden_states(cache, Rows.chain(TOKENS[-1:], cache.length))
        front = pareto_front(best_paths(weights, stream, _runner(runtime, cache), levels=5))
        expected = [list(map(ChannelShares.all_at, path.bits)) for path in front if set(path.bits) != {16}]
        assert [list(policy.sub_layers) for policy in found] == expected


def test_offers_close_in_on_the_best_of_the_front(runtime, cache):
    settings = OnTheFlySettings(mode="knapsack", levels=12, front=4, refresh=10)
    proposals = KnapsackProposals(runtime, OnlineCosts(runtime), settings)
    context = DraftContext(list(TOKENS), cache, 10, 10)
    assert proposals.rows_ahead(0) > 0
    offered = []
    while (policy := proposals.ask(context, 0)) is not None:
        assert proposals.rows_ahead(0) == 0
        offered.append(policy)
        proposals.tell(policy, -policy.mean_bits)
        if len(offered) == 20:
            break
    assert len(set(offered)) == len(offered) <= 4
    assert proposals.ask(context, 9) is None and proposals.ask(context, 10) is not None


def test_without_room_for_a_column_there_are_no_candidates(runtime):
    cache = runtime.new_cache(len(TOKENS) + 3)
    runtime.prefill(cache, TOKENS[:-1])
    proposals = KnapsackProposals(runtime, OnlineCosts(runtime), OnTheFlySettings(mode="knapsack"))
    assert proposals.ask(DraftContext(list(TOKENS), cache, 3, 3), 0) is None


def test_weights_add_up_to_a_step_without_its_head(runtime):
    costs, spec = OnlineCosts(runtime), runtime.spec
    costs.set_context(100)
    total = spec.num_blocks * sum(costs.sub_layer_weight(kind, 16) for kind in ("attention", "mlp"))
    head = spec.vocab_size * spec.hidden_size * runtime.full_bytes
    keys = 2 * 100 * spec.num_kv_heads * spec.head_dim * runtime.dtype.itemsize * spec.num_blocks
    assert total == pytest.approx(1 - head / (runtime.target.weight_bytes + keys))
    assert costs.sub_layer_weight("mlp", 4) < costs.sub_layer_weight("mlp", 8) < costs.sub_layer_weight("mlp", 16)
