"""Every scheduler at the edges: full contexts, ends within a path, drafts that are not worth their time."""

import pytest

from autodraft.cascade import Cascade
from autodraft.decoding import CascadeDecoder, DraftContext, ScheduledDrafter
from autodraft.errors import InputError
from autodraft.runtime import build_runtime
from tests.decoding.drafts import AUTOMATON, GOOD, LOOKUP, RECYCLING, SCHEDULERS, TARGET_ITSELF, USELESS
from tests.decoding.paced import PacedDrafter, eager_decoder

PROMPT = [90, 17, 33, 17, 33, 60, 2, 71]
every_scheduler = pytest.mark.parametrize("scheduler", SCHEDULERS)


def _cascade(scheduler, *drafts):
    return Cascade(drafts=drafts, scheduler=SCHEDULERS[scheduler])


@pytest.fixture(scope="module", params=["native", "torch"])
def short_runtime(hf_model, request):
    """Room for 40 tokens."""
    try:
        return build_runtime(hf_model, max_length=40, backend=request.param)
    except InputError as error:
        pytest.skip(str(error))


@every_scheduler
@pytest.mark.parametrize("num_prompt", [1, 2, 30, 38, 39])
def test_prompt_and_output_fill_the_whole_context(short_runtime, scheduler, num_prompt):
    prompt = [1 + index % 9 for index in range(num_prompt)]
    max_new_tokens = 40 - num_prompt
    answer = CascadeDecoder(short_runtime).generate(prompt, max_new_tokens=max_new_tokens).tokens
    decoder = eager_decoder(short_runtime, _cascade(scheduler, GOOD, USELESS, LOOKUP, RECYCLING))
    generation = decoder.generate(prompt, max_new_tokens=max_new_tokens)
    assert generation.tokens == answer and len(prompt) + len(answer) == decoder.max_length
    assert generation.stats.drafted_tokens > 0 or max_new_tokens == 1


@every_scheduler
def test_a_prompt_of_one_token(runtime, scheduler):
    for token in (0, 5, 96):
        answer = CascadeDecoder(runtime).generate([token], max_new_tokens=12).tokens
        decoder = eager_decoder(runtime, _cascade(scheduler, TARGET_ITSELF, LOOKUP))
        assert decoder.generate([token], max_new_tokens=12).tokens == answer


@every_scheduler
@pytest.mark.parametrize("end", ["eos", "stop"])
def test_an_end_within_an_accepted_path(runtime, scheduler, end):
    """At every position in turn; drafts that are always right go on past the end, and nothing of that is output."""
    answer = CascadeDecoder(runtime).generate(PROMPT, max_new_tokens=20).tokens
    decoder = eager_decoder(runtime, _cascade(scheduler, TARGET_ITSELF, LOOKUP))
    went_on = 0
    for position in range(12):
        length = answer.index(answer[position]) + 1 if end == "eos" else position + 1
        ending = {"eos": [answer[position]]} if end == "eos" else {"stop": lambda new, n=length: len(new) == n}
        pieces = []
        generation = decoder.generate(PROMPT, max_new_tokens=20, on_tokens=pieces.append, **ending)
        assert (generation.tokens, generation.finish_reason) == (answer[:length], end)
        assert [token for piece in pieces for token in piece] == answer[
            :length
        ] and generation.stats.new_tokens == length
        committed = sum(len(outcome.committed) for outcome in decoder.drafter.outcomes)
        assert generation.stats.accepted_tokens <= length
        went_on += committed > length
    assert went_on >= 2
    # The next sequence is not disturbed by what was committed beyond the end of this one.
    assert decoder.generate(PROMPT, max_new_tokens=20).tokens == answer


@every_scheduler
@pytest.mark.parametrize("max_new_tokens", [1, 2])
def test_very_short_outputs(runtime, scheduler, max_new_tokens):
    answer = CascadeDecoder(runtime).generate(PROMPT, max_new_tokens=max_new_tokens).tokens
    decoder = eager_decoder(runtime, _cascade(scheduler, TARGET_ITSELF, LOOKUP))
    stats = (generation := decoder.generate(PROMPT, max_new_tokens=max_new_tokens)).stats
    assert generation.tokens == answer and stats.new_tokens == max_new_tokens
    # With one token to emit there is nothing to draft; with two, one position, and where that is right one cycle.
    assert max(outcome.tree.depth for outcome in decoder.drafter.outcomes) == max_new_tokens - 1
    assert stats.cycles == 1


@pytest.fixture(scope="module")
def default_runtime(hf_model):
    """For what no backend has a say in: when schedulers draft."""
    return build_runtime(hf_model, max_length=256)


@every_scheduler
@pytest.mark.parametrize(
    "drafts",
    [(USELESS,), (USELESS, RECYCLING), (GOOD, USELESS), (GOOD, LOOKUP)],
    ids=["useless", "useless, recycling", "good, useless", "good, lookup"],
)
def test_drafts_that_cost_more_than_they_save_are_not_run(default_runtime, scheduler, drafts):
    """A draft's pass takes five steps of the target here, so that no acceptance can pay for it."""
    cascade = _cascade(scheduler, *drafts)
    drafter = PacedDrafter(default_runtime, cascade, draft_s=5.0, guarded=True)
    decoder = CascadeDecoder(default_runtime, drafter=drafter)
    answer = CascadeDecoder(default_runtime).generate(PROMPT, max_new_tokens=200).tokens
    assert decoder.generate(PROMPT, max_new_tokens=200).tokens == answer
    generation = decoder.generate(PROMPT, max_new_tokens=200)
    assert generation.tokens == answer
    # Warm: trials of a few cycles are far apart. Cycles of free drafts alone may go on.
    models = [number for number, draft in enumerate(drafts) if draft.kind == "self-draft"]
    drafting = sum(any(draft in models for draft in outcome.tree.drafts[1:]) for outcome in drafter.outcomes)
    assert drafting <= 0.1 * generation.stats.cycles


def test_verification_that_takes_far_longer_than_expected_costs_little(default_runtime):
    """A tree of 16 nodes takes nine steps, where the prior says two: no limit on hiccups may hide that for long."""
    drafter = PacedDrafter(default_runtime, _cascade("static-tree", RECYCLING), guarded=True, node_s=0.5)
    decoder = CascadeDecoder(default_runtime, drafter=drafter)
    stats = [decoder.generate(PROMPT, max_new_tokens=240).stats for _ in range(5)]
    assert sum(each.drafted_tokens for each in stats) > 0
    assert drafter.paced.now < 1.02 * sum(each.new_tokens for each in stats) + 30


def test_dytc_stops_running_a_cheap_draft_that_is_never_right(default_runtime):
    """What it costs is little, what it gains is less: found out by acceptance, not by time."""
    drafter = PacedDrafter(default_runtime, _cascade("dytc", USELESS), draft_s=0.2)
    decoder = CascadeDecoder(default_runtime, drafter=drafter)
    stats = [decoder.generate(PROMPT, max_new_tokens=240).stats for _ in range(2)]
    assert stats[0].drafts[0].accepted_tokens < 0.05 * stats[0].new_tokens
    assert stats[0].drafts[0].cycles > 0  # its prior is better than it is
    assert stats[1].drafts[0].cycles <= 0.1 * stats[1].cycles


@every_scheduler
def test_good_and_cheap_drafts_go_on_being_run(default_runtime, scheduler):
    drafter = PacedDrafter(default_runtime, _cascade(scheduler, GOOD, USELESS), draft_s=0.05, guarded=True)
    decoder = CascadeDecoder(default_runtime, drafter=drafter)
    decoder.generate(PROMPT, max_new_tokens=200)  # the first tokens are decoded alone, to time the target
    stats = decoder.generate(PROMPT, max_new_tokens=200).stats
    assert stats.drafts[0].cycles >= 0.8 * stats.cycles and stats.tokens_per_cycle > 2


@pytest.mark.parametrize("draft", [LOOKUP, AUTOMATON], ids=lambda draft: draft.kind)
def test_free_drafts_know_what_was_decoded_without_them(default_runtime, draft):
    """Their text has no gap where the guard had the target decode alone: they draft as if they had followed it."""
    alone, cycling = (
        ScheduledDrafter(default_runtime, Cascade(drafts=(draft,)), guarded=guarded) for guarded in (True, False)
    )
    tokens: list[int] = []
    alone.start([1, 2])
    while alone.idle_tokens:
        tokens += [5, 6]
        alone.observe_alone(tokens[-2:], 1.0, None)
    cycling.start([1, 2, *tokens])
    context = DraftContext([1, 2, *tokens], default_runtime.new_cache(), max_depth=6, max_nodes=20)
    trees = [drafter.propose(context) for drafter in (alone, cycling)]
    assert trees[0] == trees[1] and trees[0].tokens[:3] == (6, 5, 6)
