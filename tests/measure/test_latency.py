"""The latency table on planted step times: it recovers the parts, and adds them up again."""

from __future__ import annotations

import itertools

import pytest

from autodraft.measure.latency import LatencyTable, interleaved, measure_latency, step_policy, table_keys
from autodraft.measure.statistics import Spread
from autodraft.policy import SUB_LAYER_KINDS, ChannelShares, DraftPolicy, SubLayerKind
from autodraft.runtime import TransformerRuntime

BLOCKS = 4
PARTS: dict[tuple[SubLayerKind, int], float] = {
    ("attention", 16): 1.0, ("attention", 8): 0.5, ("attention", 4): 1.5,
    ("mlp", 16): 2.0, ("mlp", 8): 0.9, ("mlp", 4): 1.8,
}  # fmt: skip
BASE = {16: 3.0, 8: 2.0, 4: 1.5}


def planted_ms(policy: DraftPolicy, query_tokens: int = 1) -> float:
    total = BASE[policy.head_bits]
    for index, shares in enumerate(policy.sub_layers):
        total += sum(shares.units_at(bits) / 16 * PARTS[SUB_LAYER_KINDS[index % 2], bits] for bits in (16, 8, 4))
    return total * (1 + 0.1 * (query_tokens - 1))


@pytest.fixture
def table() -> LatencyTable:
    steps = {
        (content, bits, n): Spread(
            planted_ms(step_policy(BLOCKS, content, bits), n), 0.0, 5, planted_ms(step_policy(BLOCKS, content, bits), n)
        )
        for content, bits, n in table_keys((16, 8, 4))
    }
    return LatencyTable(BLOCKS, steps)


def test_parts_are_recovered(table: LatencyTable) -> None:
    for (kind, bits), expected in PARTS.items():
        assert table.sub_layer_ms(kind, bits) == pytest.approx(expected)
    assert {bits: table.base_ms(bits) for bits in BASE} == pytest.approx(BASE)


def test_times_add_up_for_any_policy(table: LatencyTable) -> None:
    choices = [ChannelShares.all_at(bits) for bits in (0, 4, 8, 16)] + [ChannelShares(full=4, eight=8)]
    for first, second, head in itertools.product(choices, choices, (16, 8, 4)):
        policy = DraftPolicy.uniform(BLOCKS, 16, head).replace({0: first, 3: second})
        assert table.predict_step_ms(policy) == pytest.approx(planted_ms(policy))
    assert table.cost(DraftPolicy.uniform(BLOCKS)) == pytest.approx(1.0)


def test_verify_cost_is_interpolated(table: LatencyTable) -> None:
    for n in (1, 2, 3, 5, 8, 16, 32):
        assert table.verify_cost(n) == pytest.approx(1 + 0.1 * (n - 1))
    assert table.verify_cost(64) == pytest.approx(1 + 0.1 * 63)  # as it rose last


def test_bits_that_are_no_faster_are_not_offered(table: LatencyTable) -> None:
    assert table.useful_bits == (16, 8, 4)
    slow = dict(table.steps) | {("all", 4, 1): Spread(99.0, 0.0, 5, 99.0)}
    assert LatencyTable(BLOCKS, slow).useful_bits == (16, 8)


def test_noise_never_makes_a_part_free(table: LatencyTable) -> None:
    noisy = dict(table.steps) | {
        ("attention", 8, 1): Spread(0.1, 0.0, 5, 0.1),
        ("mlp", 8, 1): Spread(99.0, 0.0, 5, 99.0),
    }
    assert LatencyTable(BLOCKS, noisy).sub_layer_ms("attention", 8) > 0
    # Parts of a step may fit into caches that the whole one does not fit into; the head has a time of its own.
    cheap = dict(table.steps) | {(kind, 8, 1): Spread(0.1, 0.0, 5, 0.1) for kind in SUB_LAYER_KINDS}
    assert LatencyTable(BLOCKS, cheap).base_ms(8) == table.base_ms(8)


def test_table_survives_json(table: LatencyTable) -> None:
    assert LatencyTable.from_json(table.to_json()) == table


def test_steps_are_interleaved_and_timed_by_the_clock() -> None:
    now, order = 0.0, []

    def step(name: str, seconds: float):  # type: ignore[no-untyped-def]
        def run() -> None:
            nonlocal now
            now += seconds
            order.append(name)

        return run

    steps = {("all", 16, 1): step("a", 0.002), ("all", 8, 1): step("b", 0.001)}
    samples = interleaved(steps, seconds=1.0, most_repeats=5, clock=lambda: now)
    assert samples["all", 16, 1] == pytest.approx([2.0] * 5) and samples["all", 8, 1] == pytest.approx([1.0] * 5)
    assert set(order[:2]) == {"a", "b"}  # warm-up
    rounds = [order[i : i + 8] for i in range(2, len(order), 8)]
    assert all(names in (list("aaaabbbb"), list("bbbbaaaa")) for names in rounds)  # the first of four does not count


def test_a_real_target_is_measured_completely(runtime: TransformerRuntime) -> None:
    table = measure_latency(runtime, seconds=0.0)
    assert set(table.steps) == set(table_keys(runtime.available_bits))
    assert all(timing.count == 3 and timing.median_ms > 0 for timing in table.steps.values())
