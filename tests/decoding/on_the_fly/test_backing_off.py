"""Where nothing pays decoding is hardly slower than without; where it begins to pay, drafting is taken up again.

In virtual time, in target steps, on a real runtime whose drafts can be made wrong.
"""

import copy

import pytest

from autodraft.decoding import CascadeDecoder
from autodraft.decoding.on_the_fly import OnTheFlyDrafter, OnTheFlySettings
from autodraft.policy import DraftPolicy
from autodraft.runtime import Candidates

pytestmark = pytest.mark.parametrize("runtime", ["native"], indirect=True)

TARGET = DraftPolicy.uniform(3)


class World:
    """The runtime with a clock: a pass over n rows takes 1 + 0.05 (n - 1), a drafted token `draft_s`.

    Drafts have plans of their own even where their policy is the target's.

    Attributes:
        wrong: whether drafts say something else than they would, as in a text that they cannot follow.
        looks: when candidates were judged.
    """

    def __init__(self, runtime, draft_s):
        self._runtime, self.draft_s = runtime, draft_s
        self.now, self.wrong, self.looks = 0.0, False, []

    def __getattr__(self, name):
        return getattr(self._runtime, name)

    def clock(self):
        return self.now

    def _pass(self, rows):
        self.now += 1 + 0.05 * (rows - 1)

    def choose(self, cache, rows, *arguments):
        self._pass(len(rows))
        return self._runtime.choose(cache, rows, *arguments)

    def review(self, plan, cache, rows, **options):
        self._pass(len(rows))
        self.looks.append(self.now)
        return self._said(self._runtime.review(plan, cache, rows, **options))

    def hidden_states(self, cache, rows):
        self._pass(len(rows))
        return self._runtime.hidden_states(cache, rows)

    def run_sub_layers(self, plan, cache, rows, *arguments):
        self.now += (1 + 0.05 * (len(rows) - 1)) / (2 * self.spec.num_blocks)
        return self._runtime.run_sub_layers(plan, cache, rows, *arguments)

    def plan(self, policy):
        return copy.copy(self._runtime.plan(policy))

    def draft_chain(self, plan, *arguments, **options):
        found = self._runtime.draft_chain(plan, *arguments, **options)
        is_draft = plan is not self.target
        self.now += len(found) * (self.draft_s if is_draft else 1)
        return self._said(found) if is_draft else found

    def _said(self, found):
        if not self.wrong:
            return found
        return [Candidates([(token + 1) % 97 for token in tokens], probs) for tokens, probs in found]


def _decoder(world, **settings):
    settings = OnTheFlySettings(stop_threshold=0.0, levels=12, **settings)
    drafter = OnTheFlyDrafter(world, settings, start_policy=TARGET)
    return CascadeDecoder(world, drafter=drafter)


def _decode(decoder, num_tokens):
    """(Seconds, cycles that drafted) of each sequence; plain decoding takes a second per token."""
    found = []
    for number in range(num_tokens // 150):
        generation = decoder.generate([number, 5 * number % 97, 7], max_new_tokens=150)
        stats = generation.stats
        assert len(generation.tokens) == 150
        found.append((stats.decode_s, stats.cycles - stats.autoregressive_cycles))
    return found


@pytest.mark.parametrize("mode", ["swift", "knapsack"])
@pytest.mark.parametrize("useless", ["wrong", "dear"])
def test_where_nothing_pays_hardly_anything_is_lost(runtime, mode, useless):
    world = World(runtime, draft_s=0.3 if useless == "wrong" else 1.5)
    world.wrong = useless == "wrong"
    decoder = _decoder(world, mode=mode, most_lost=0.03)
    runs = _decode(decoder, 3000)
    assert world.looks and any(drafted for _, drafted in runs)  # it did try
    assert sum(seconds for seconds, _ in runs) < 3000 / 0.95


@pytest.mark.parametrize("most_lost", [0.01, 0.05])
def test_less_is_lost_where_less_may_be(runtime, most_lost):
    world = World(runtime, draft_s=0.3)
    world.wrong = True
    seconds = sum(seconds for seconds, _ in _decode(_decoder(world, most_lost=most_lost), 3000))
    one_look = 2 * (1 + 0.05 * 31)
    assert 3000 < seconds < (1 + most_lost) * 3000 + 2 * 4 + one_look + 8


@pytest.mark.parametrize("mode", ["swift", "knapsack"])
def test_drafting_is_taken_up_again_when_the_text_changes(runtime, mode):
    world = World(runtime, draft_s=0.1)
    world.wrong = True
    decoder = _decoder(world, mode=mode)
    _decode(decoder, 3000)
    world.wrong = False
    runs = _decode(decoder, 3000)
    assert all(seconds < 100 for seconds, _ in runs[-5:])


def test_a_draft_that_pays_is_not_held_back(runtime):
    world = World(runtime, draft_s=0.1)
    runs = _decode(_decoder(world, most_lost=0.0), 900)
    assert all(seconds < 100 for seconds, _ in runs)
