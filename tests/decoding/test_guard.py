"""The guard of fixed plans, on a scripted plan whose gain and cost are given per cycle."""

import itertools

import pytest

from autodraft.decoding import Growth, TreeScheduler
from autodraft.decoding.schedulers.guard import GuardedScheduler


class ScriptedBench:
    """A tree, and nothing that could make it grow."""

    def __init__(self):
        self.growth = Growth(1)


class ScriptedPlan(TreeScheduler):
    """Drafts `length` tokens in every cycle that it is asked."""

    def __init__(self, length=3):
        self.length = length
        self.observed = 0

    def grow(self, bench):
        node = 0
        for token in range(self.length):
            node = bench.growth.add(node, token, 0)

    def observe(self, bench, accepted, steps):
        self.observed += 1


def _run(guard, cycles, num_accepted, steps):
    """Whether each cycle drafted; a drafting cycle commits `num_accepted` + 1 tokens and takes `steps`."""
    drafted = []
    for _ in range(cycles):
        bench = ScriptedBench()
        guard.grow(bench)
        drafted.append(len(bench.growth) > 1)
        if drafted[-1]:
            guard.observe(bench, list(range(num_accepted + 1)), steps)
        else:
            guard.observe(bench, [0], 1.0)
    return drafted


def _runs(drafted):
    """Lengths of the stretches with and without drafting, in turn."""
    return [(key, len(list(cycles))) for key, cycles in itertools.groupby(drafted)]


def test_a_plan_that_pays_is_never_suspended():
    plan = ScriptedPlan()
    assert all(_run(GuardedScheduler(plan), 300, num_accepted=2, steps=2.0)) and plan.observed == 300


@pytest.mark.parametrize("steps", [1.1, 1.5, 3.0])
def test_a_useless_plan_is_tried_so_rarely_that_little_is_lost(steps):
    plan, cycles = ScriptedPlan(), 4000
    runs = _runs(_run(GuardedScheduler(plan), cycles, num_accepted=0, steps=steps))
    trials, pauses = runs[0::2], [length for _, length in runs[1::2]]
    assert all(drafts and length <= 10 for drafts, length in trials)
    assert plan.observed == sum(length for _, length in trials)
    assert pauses[0] <= pauses[-2]  # the first try has credit
    lost = plan.observed * (steps - 1.0)
    assert lost < 0.03 * cycles + 4.0 + 10 * (steps - 1.0)


@pytest.mark.parametrize("steps", [5.0, 8.0, 13.0])
def test_what_is_expensive_is_suspended_before_it_has_been_tried_often(steps):
    plan, cycles = ScriptedPlan(), 8000
    _run(GuardedScheduler(plan), cycles, num_accepted=0, steps=steps)
    assert 0 < plan.observed * (steps - 1.0) < 0.035 * cycles


def test_what_a_plan_has_gained_is_good_for_as_many_tries():
    gained, fresh = GuardedScheduler(ScriptedPlan()), GuardedScheduler(ScriptedPlan())
    _run(gained, 60, num_accepted=3, steps=2.0)
    tries = [sum(_run(guard, 200, num_accepted=0, steps=1.5)) for guard in (gained, fresh)]
    assert tries[0] > 2 * tries[1]


def test_pauses_have_a_longest():
    runs = _runs(_run(GuardedScheduler(ScriptedPlan()), 6000, num_accepted=0, steps=40.0))
    pauses = [length for drafts, length in runs[:-1] if not drafts]
    assert len(pauses) > 8 and pauses[-1] == pauses[-2] == max(pauses)


def test_a_plan_that_pays_again_is_resumed():
    guard = GuardedScheduler(ScriptedPlan())
    _run(guard, 400, num_accepted=0, steps=1.5)
    drafted = _run(guard, 600, num_accepted=3, steps=2.0)
    assert all(drafted[drafted.index(True) :])


def test_one_bad_cycle_suspends_nothing():
    guard = GuardedScheduler(ScriptedPlan())
    _run(guard, 50, num_accepted=3, steps=2.0)
    assert all(_run(guard, 1, num_accepted=0, steps=2.0) + _run(guard, 50, num_accepted=3, steps=2.0))


@pytest.mark.parametrize("steps", [1.0, 1.008])
def test_cycles_without_a_proposal_are_no_evidence_against_a_plan(steps):
    """A look-up that found nothing has cost next to nothing; it must be there when the text begins to repeat itself."""
    plan = ScriptedPlan(length=0)
    guard = GuardedScheduler(plan)
    for _ in range(100):
        bench = ScriptedBench()
        guard.grow(bench)
        guard.observe(bench, [0], steps)
    plan.length = 3
    assert all(_run(guard, 20, num_accepted=3, steps=1.5))


def test_cycles_that_take_longer_than_plain_decoding_are_avoided_even_where_nothing_is_proposed():
    plan = ScriptedPlan(length=0)
    guard = GuardedScheduler(plan)
    plain = 0
    for _ in range(1000):
        plain += guard.idle_cycles > 0
        guard.grow(bench := ScriptedBench())
        guard.observe(bench, [0], 1.2)
    assert plain > 800


def test_plain_tokens_that_drafting_has_slowed_down_lengthen_the_next_pause():
    pauses = []
    for slower in (0.0, 3.0):
        guard = GuardedScheduler(ScriptedPlan())
        for _ in range(2):
            while not guard.idle_cycles:
                _run(guard, 1, num_accepted=0, steps=1.5)
            pauses.append(guard.idle_cycles)
            guard.pass_idle(guard.idle_cycles, guard.idle_cycles + slower)
    assert pauses[0] == pauses[2] and pauses[3] > pauses[1] + 100


def test_what_is_decoded_without_the_guard_counts_as_its_pause():
    """In one go or cycle by cycle: the plan is tried again after as many tokens."""
    guards = [GuardedScheduler(ScriptedPlan()) for _ in range(2)]
    for guard in guards:
        while not guard.idle_cycles:
            _run(guard, 1, num_accepted=0, steps=1.5)
    pause = guards[0].idle_cycles
    assert pause == guards[1].idle_cycles > 1
    guards[0].pass_idle(pause - 1, pause - 1)
    _run(guards[1], pause - 1, num_accepted=0, steps=1.5)
    for guard in guards:
        assert guard.idle_cycles == 1 and _run(guard, 2, num_accepted=3, steps=1.5) == [False, True]


@pytest.mark.parametrize(("committed", "steps"), [(1, 1.5), (1, 8.0), (3, 2.0), (2, 2.1)])
def test_cycles_that_took_place_without_the_guard_count_like_its_own(committed, steps):
    asked, told = (GuardedScheduler(ScriptedPlan()) for _ in range(2))
    for _ in range(300):
        if asked.idle_cycles:
            break
        _run(asked, 1, num_accepted=committed - 1, steps=steps)
        told.pass_cycles(1, committed, steps, drafted=True)
        assert (told.idle_cycles, told.credit) == (asked.idle_cycles, asked.credit)
    assert bool(asked.idle_cycles) == (steps > committed)


def test_many_cycles_at_once_count_as_one_after_the_other_but_for_their_order():
    single, together = (GuardedScheduler(ScriptedPlan()) for _ in range(2))
    for _ in range(24):
        single.pass_cycles(1, 2, 1.5, drafted=True)
    together.pass_cycles(24, 48, 36.0, drafted=True)
    assert together.credit == pytest.approx(single.credit) and not together.idle_cycles
    together.pass_cycles(6, 6, 60.0, drafted=True)
    assert together.idle_cycles


def test_cycles_in_which_nothing_was_found_are_no_evidence_against_a_plan_when_told_of():
    guard = GuardedScheduler(ScriptedPlan())
    guard.pass_cycles(30, 30, 30.2, drafted=False)
    assert not guard.idle_cycles
    guard.pass_cycles(30, 30, 40.0, drafted=False)
    assert guard.idle_cycles


def test_credit_is_what_may_be_lost_before_drafting_is_suspended():
    guard = GuardedScheduler(ScriptedPlan())
    for _ in range(3):
        guard.pass_cycles(1, 1, 1 + 0.3 * guard.credit, drafted=True)
        assert not guard.idle_cycles
    guard.pass_cycles(1, 1, 1.1 + guard.credit, drafted=True)
    assert guard.idle_cycles and guard.credit < 0.1
    guard.pass_idle(500, 500.0)
    assert guard.credit == pytest.approx(5.0, abs=0.1)
