"""Cycles that the runtime runs by itself are the cycles that the decoder would have run, counted alike."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autodraft.cascade import Cascade, DyTC, PromptLookup, SelfDraft
from autodraft.decoding import GREEDY, CascadeDecoder, SamplingConfig, ScheduledDrafter
from autodraft.decoding.standing import standing_draft
from autodraft.runtime import Rows, build_runtime
from tests.decoding.drafts import AUTOMATON, BAD, CASCADES, GOOD, LOOKUP, TARGET_ITSELF, UNSURE, USELESS
from tests.runtime.tiny import tiny_model

REPEATED = {
    "chain": Cascade(drafts=(BAD,)),
    "target itself": Cascade(drafts=(TARGET_ITSELF,)),
    "chain that stops": Cascade(drafts=(UNSURE,)),
    "useless": Cascade(drafts=(USELESS,)),
    "lookup": Cascade(drafts=(LOOKUP,)),
    "lookup, model": Cascade(drafts=(PromptLookup(min_ngram=2, num_draft_tokens=9), GOOD)),
    "model, never asked": Cascade(drafts=(GOOD, AUTOMATON)),
}
SAMPLINGS = {"greedy": GREEDY, "sampled": SamplingConfig(temperature=0.8)}
PROMPT = [90, 17, 33, 17, 33, 60, 2, 71, 17]
repeated = pytest.mark.parametrize("name", REPEATED)
sampled = pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)


class _OneByOne:
    """The same runtime, asked for every pass."""

    runs_cycles = False

    def __init__(self, runtime):
        self._runtime = runtime

    def __getattr__(self, name):
        return getattr(self._runtime, name)


@pytest.fixture(scope="module")
def native(hf_model):
    return build_runtime(hf_model, max_length=256, backend="native")


def _decoder(runtime, cascade, *, by_itself=True, guarded=False):
    seen = runtime if by_itself else _OneByOne(runtime)
    return CascadeDecoder(runtime, drafter=ScheduledDrafter(seen, cascade, guarded=guarded))


def _counts(generation):
    """All that does not depend on time."""
    stats = generation.stats
    return (
        generation.tokens,
        generation.finish_reason,
        stats.tokens_per_cycle_histogram,
        stats.autoregressive_cycles,
        [dataclasses.astuple(draft) for draft in stats.drafts],
    )


def _run_cycles(monkeypatch, runtime):
    """A list to which the cycles of every run are added."""
    ran = []
    run = runtime.run_cycles

    def noting(*arguments, **options):
        ran.append(run(*arguments, **options))
        return ran[-1]

    monkeypatch.setattr(runtime, "run_cycles", noting)
    return ran


@repeated
@sampled
def test_the_same_cycles_are_run_and_counted(native, monkeypatch, name, sampling):
    ran = _run_cycles(monkeypatch, native)
    for prompt, max_new_tokens in itertools.product((PROMPT, [5]), (2, 3, 40, 90)):
        ways = [_decoder(native, REPEATED[name], by_itself=by_itself) for by_itself in (True, False)]
        for decoder in ways:  # the second text begins with what was learnt in the first
            decoder.generate([1, 2, 3], max_new_tokens=8, sampling=sampling, seed=1)
        ran.clear()
        options = {"max_new_tokens": max_new_tokens, "sampling": sampling, "seed": 3}
        by_itself, one_by_one = (_counts(decoder.generate(prompt, **options)) for decoder in ways)
        assert by_itself == one_by_one
        assert by_itself[0] == CascadeDecoder(native).generate(prompt, **options).tokens
        assert ran and sum(cycle.committed for cycles in ran for cycle in cycles) >= max_new_tokens - 1


@sampled
@pytest.mark.parametrize("end", ["eos", "stop"])
def test_an_end_within_what_was_run(native, sampling, end):
    answer = CascadeDecoder(native).generate(PROMPT, max_new_tokens=30, sampling=sampling, seed=5).tokens
    ways = [_decoder(native, REPEATED["lookup, model"], by_itself=by_itself) for by_itself in (True, False)]
    for position in range(1, 25):
        length = answer.index(answer[position]) + 1 if end == "eos" else position + 1
        ending = {"eos": [answer[position]]} if end == "eos" else {"stop": lambda new, n=length: len(new) == n}
        pieces = []
        options = {"max_new_tokens": 30, "sampling": sampling, "seed": 5, **ending}
        by_itself = ways[0].generate(PROMPT, **options, on_tokens=pieces.append)
        assert (by_itself.tokens, by_itself.finish_reason) == (answer[:length], end)
        assert list(itertools.chain(*pieces)) == answer[:length] and by_itself.stats.new_tokens == length
        accepted = by_itself.stats.accepted_tokens
        assert accepted == ways[1].generate(PROMPT, **options).stats.accepted_tokens


@repeated
@sampled
def test_cycles_in_turns_with_those_that_the_decoder_runs(native, monkeypatch, name, sampling):
    """What one of them adds to the text the other one knows, lookups too."""
    mixed, one_by_one = (_decoder(native, REPEATED[name], by_itself=by_itself) for by_itself in (True, False))
    stands, asked = mixed.drafter.standing, itertools.count()
    monkeypatch.setattr(mixed.drafter, "standing", lambda context: None if next(asked) % 2 else stands(context))
    monkeypatch.setattr("autodraft.decoding.repetition._MOST_CYCLES", 2)
    options = {"max_new_tokens": 80, "sampling": sampling, "seed": 3}
    for prompt in (PROMPT, [5, 1, 5, 1], PROMPT):
        assert _counts(mixed.generate(prompt, **options)) == _counts(one_by_one.generate(prompt, **options))


def test_the_context_is_filled_to_its_end(hf_model):
    runtime = build_runtime(hf_model, max_length=40, backend="native")
    for cascade in REPEATED.values():
        decoder = _decoder(runtime, cascade)
        for _ in range(2):
            tokens = decoder.generate(PROMPT, max_new_tokens=40 - len(PROMPT)).tokens
            assert tokens == CascadeDecoder(runtime).generate(PROMPT, max_new_tokens=40 - len(PROMPT)).tokens


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 96), min_size=1, max_size=12),
    st.sampled_from(sorted(REPEATED)),
    st.sampled_from(sorted(SAMPLINGS)),
    st.integers(2, 60),
)
def test_the_cache_is_that_of_a_fresh_prefill(native, prompt, name, sampling, max_new_tokens):
    decoder = _decoder(native, REPEATED[name])
    for _ in range(2):
        generation = decoder.generate(prompt, max_new_tokens=max_new_tokens, sampling=SAMPLINGS[sampling], seed=2)
    text = [*prompt, *generation.tokens]
    used, fresh = decoder._cache, native.new_cache()
    native.prefill(fresh, text[: used.length])
    rows = Rows.chain([7], used.length)
    assert native.forward(native.target, used, rows).equal(native.forward(native.target, fresh, rows))


@pytest.mark.parametrize("family", ["qwen3", "opt", "mistral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_other_families_and_precisions(family, dtype):
    runtime = build_runtime(tiny_model(family, seed=2, vocab_size=40).to(dtype), max_length=96, backend="native")
    options = {"max_new_tokens": 40, "sampling": SAMPLINGS["sampled"], "seed": 1}
    answer = CascadeDecoder(runtime).generate([3, 1, 2], **options).tokens
    for cascade in (REPEATED["lookup, model"], REPEATED["chain that stops"]):
        decoder = _decoder(runtime, cascade)
        assert [decoder.generate([3, 1, 2], **options).tokens for _ in range(2)] == [answer] * 2


def test_filters_are_left_to_the_decoder(native, monkeypatch):
    ran = _run_cycles(monkeypatch, native)
    sampling = SamplingConfig(temperature=0.8, top_k=5)
    decoder = _decoder(native, REPEATED["chain"])
    for _ in range(2):
        tokens = decoder.generate(PROMPT, max_new_tokens=20, sampling=sampling, seed=1).tokens
    assert tokens == CascadeDecoder(native).generate(PROMPT, max_new_tokens=20, sampling=sampling, seed=1).tokens
    assert not ran


def test_what_depends_on_the_cycle_is_asked_for(native):
    """Other schedulers, and drafts that learn or that the engine does not know, are never run without being asked."""
    for name, cascade in CASCADES.items():
        if cascade.scheduler.kind != "chain":
            assert standing_draft(cascade, [None] * len(cascade.drafts)) is None, name
    assert standing_draft(Cascade(drafts=(AUTOMATON,)), [None]) is None
    assert standing_draft(Cascade(drafts=(LOOKUP, LOOKUP)), [None, None]) is None
    assert standing_draft(Cascade(drafts=(LOOKUP,), scheduler=DyTC()), [None]) is None
    draft, numbers = standing_draft(Cascade(drafts=(LOOKUP,)), [None])
    assert draft.lookup is not None and draft.plan is None and numbers == (0, 0)


def test_a_guard_that_suspends_drafting_is_obeyed(native, monkeypatch):
    """Useless drafts are tried, found to lose, and left alone."""
    ran = _run_cycles(monkeypatch, native)
    decoder = _decoder(native, Cascade(drafts=(SelfDraft(policy=USELESS.policy, num_draft_tokens=32),)), guarded=True)
    for _ in range(6):
        stats = decoder.generate(PROMPT, max_new_tokens=200).stats
    assert ran and stats.autoregressive_cycles > 100
