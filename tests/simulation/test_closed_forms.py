"""The simulator against formulas that were derived without it."""

from collections.abc import Sequence

import pytest

from autodraft.cascade import Chain, Vertical
from autodraft.decoding.growth import ROOT
from autodraft.decoding.workbench import Workbench
from autodraft.measure import formulas
from autodraft.simulation import Entry, FreeDraft, ModelDraft, Schedule, World, simulate

NUM_TOKENS = 60_000


@pytest.mark.parametrize(
    ("alpha", "length", "cost", "verify_cost"),
    [(0.8, 4, 0.2, 1.0), (0.6, 3, 0.1, 1.3), (0.95, 8, 0.05, 1.2), (0.3, 1, 0.5, 1.05), (1.0, 5, 0.3, 1.1)],
)
def test_a_chain_is_as_fast_as_the_formula_says(alpha: float, length: int, cost: float, verify_cost: float) -> None:
    draft = ModelDraft(name="draft", alpha=alpha, cost={1: cost})
    world = World(verify_cost={1: 1.0, length + 1: verify_cost}, drafts=(draft,))
    simulation = simulate(world, Schedule(Chain(), (Entry(0, length),)), num_tokens=NUM_TOKENS)
    expected = formulas.chain_speedup(alpha, length, cost, verify_cost)
    assert simulation.speedup == pytest.approx(expected, rel=0.01)
    assert simulation.tokens_per_cycle == pytest.approx(formulas.tokens_per_cycle(alpha, length), rel=0.01)


def test_probabilities_that_differ_leave_a_chain_without_threshold_as_it_was() -> None:
    draft = ModelDraft(name="draft", alpha=0.7, cost={1: 0.2}, concentration=2.0)
    simulation = simulate(World(drafts=(draft,)), Schedule(Chain(), (Entry(0, 4),)), num_tokens=NUM_TOKENS)
    assert simulation.speedup == pytest.approx(formulas.chain_speedup(0.7, 4, 0.2), rel=0.01)


class InnerCycles:
    """The cascade of `formulas.vertical_speedup`: a number of inner cycles, however many tokens come of them."""

    def __init__(self, inner_cycles: int, inner_tokens: int) -> None:
        self._inner_cycles, self._inner_tokens = inner_cycles, inner_tokens

    def grow(self, bench: Workbench) -> None:
        growth, leaf = bench.growth, ROOT
        for _ in range(self._inner_cycles):
            reviewed = [leaf]
            for _ in range(self._inner_tokens):
                token, _ = bench.continuations(1, reviewed[-1], 1)[0]
                reviewed.append(growth.add(reviewed[-1], token, 1, kept=False))
            for node, found in zip(reviewed, bench.review(0, reviewed, 1), strict=True):
                if node != leaf:
                    break
                leaf = growth.add(leaf, found.tokens[0], 0)

    def observe(self, bench: Workbench, accepted: Sequence[int], steps: float) -> None:
        """Nothing to learn."""


def vertical_world(alpha: float, inner_alpha: float, cost: float) -> World:
    upper = ModelDraft(name="upper", alpha=alpha, cost={1: cost})
    lower = FreeDraft(name="lower", alpha=inner_alpha, reference="above")
    return World(drafts=(upper, lower))


@pytest.mark.parametrize(
    ("alpha", "inner_alpha", "inner_cycles", "inner_tokens", "cost"),
    [(0.8, 0.6, 3, 2, 0.3), (0.9, 0.8, 2, 4, 0.4), (0.6, 0.3, 4, 1, 0.2), (0.95, 0.5, 5, 3, 0.25)],
)
def test_a_vertical_cascade_is_as_fast_as_the_formula_says(
    alpha: float, inner_alpha: float, inner_cycles: int, inner_tokens: int, cost: float
) -> None:
    schedule = Schedule(Vertical(), (Entry(0, 64), Entry(1, inner_tokens)))
    world = vertical_world(alpha, inner_alpha, cost)
    own = InnerCycles(inner_cycles, inner_tokens)
    simulation = simulate(world, schedule, num_tokens=NUM_TOKENS, scheduler=own)
    expected = formulas.vertical_speedup(alpha, inner_alpha, inner_cycles, inner_tokens, cost=cost)
    assert simulation.speedup == pytest.approx(expected, rel=0.01)


def expected_inner_cycles(inner_alpha: float, inner_tokens: int, length: int) -> float:
    """Of filling a draft of `length` tokens, by recursion over what is left."""
    expected = [0.0]
    for left in range(1, length + 1):
        proposed = min(inner_tokens, left - 1)
        gains = [inner_alpha**accepted * (1 - inner_alpha) for accepted in range(proposed)] + [inner_alpha**proposed]
        expected.append(1 + sum(chance * expected[left - gain] for gain, chance in enumerate(gains, start=1)))
    return expected[length]


@pytest.mark.parametrize(("inner_alpha", "inner_tokens", "length"), [(0.6, 2, 5), (0.8, 4, 8), (0.3, 1, 3), (1, 2, 6)])
def test_the_vertical_scheduler_is_as_fast_as_enumeration_says(
    inner_alpha: float, inner_tokens: int, length: int
) -> None:
    alpha, cost = 0.85, 0.3
    schedule = Schedule(Vertical(), (Entry(0, length), Entry(1, inner_tokens)))
    simulation = simulate(vertical_world(alpha, inner_alpha, cost), schedule, num_tokens=NUM_TOKENS)
    steps = 1 + cost * expected_inner_cycles(inner_alpha, inner_tokens, length)
    assert simulation.speedup == pytest.approx(formulas.tokens_per_cycle(alpha, length) / steps, rel=0.01)


def test_a_lower_draft_that_is_always_right_makes_the_schedulers_cascade_that_of_the_formula() -> None:
    schedule = Schedule(Vertical(), (Entry(0, 6), Entry(1, 2)))
    simulation = simulate(vertical_world(0.85, 1.0, 0.3), schedule, num_tokens=NUM_TOKENS)
    assert simulation.speedup == pytest.approx(formulas.vertical_speedup(0.85, 1.0, 2, 2, cost=0.3), rel=0.01)
