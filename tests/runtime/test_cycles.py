"""Cycles in the engine: prompt lookup against the decoder's source, and every bound after which none begins."""

import ctypes
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autodraft.cascade import PromptLookup
from autodraft.decoding.sources import PromptLookupSource
from autodraft.errors import ContextLengthError
from autodraft.policy import DraftPolicy
from autodraft.runtime import ChainStop, CycleBounds, Lookup, StandingDraft, build_runtime
from autodraft.runtime.native_build import load_library
from autodraft.runtime.native_cycles import CLookup
from tests.runtime.tiny import tiny_model

PROMPT = [5, 9, 33, 9, 33]
UNBOUNDED = CycleBounds(room=60, tokens=60, cycles=99, seconds=math.inf, token_s=0.0, lost_s=math.inf)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40),
    st.integers(1, 8),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(0, 12),
)
def test_lookup_copies_what_the_source_would(text, num_tokens, min_ngram, more, most):
    settings = PromptLookup(num_draft_tokens=num_tokens, min_ngram=min_ngram, max_ngram=min_ngram + more)
    source = PromptLookupSource(settings)
    source.start(text)
    state, expected = source.root(), []
    while len(expected) < most and (found := source.candidates(state, 1)):
        expected.append(found[0][0])
        state = source.step(state, found[0][0])
    lookup = CLookup(num_tokens, settings.max_ngram, settings.min_ngram)
    copied = (ctypes.c_int32 * 12)()
    count = load_library().find_continuation(
        ctypes.byref(lookup), (ctypes.c_int32 * len(text))(*text), len(text), most, copied
    )
    assert copied[:count] == expected


@pytest.fixture(scope="module")
def runtime(one_thread):
    return build_runtime(tiny_model("llama", seed=7, tie_word_embeddings=False), max_length=80, backend="native")


@pytest.fixture(scope="module")
def answer(runtime):
    cache = runtime.new_cache()
    runtime.prefill(cache, PROMPT[:-1])
    return [each.tokens[0] for each in runtime.draft_chain(runtime.target, cache, PROMPT[-1:], 60)]


def _run(runtime, draft, last_tokens=(), **bounds):
    """What the cycles committed, and the cycles."""
    cache, text = runtime.new_cache(), np.full(80, -1, np.int32)
    text[: len(PROMPT)] = PROMPT
    runtime.prefill(cache, PROMPT[:-1])
    cycles = runtime.run_cycles(cache, text, draft, UNBOUNDED._replace(**bounds), last_tokens=last_tokens)
    end = len(PROMPT) + sum(cycle.committed for cycle in cycles)
    assert (text[end:] == -1).all() and cache.length == len(PROMPT) - 1
    return text[len(PROMPT) : end].tolist(), cycles


@pytest.fixture(scope="module")
def itself(runtime):
    """A draft that is always right, of chains of three."""
    return StandingDraft(plan=runtime.target, longest=3)


def test_cycles_go_on_until_the_room_is_full(runtime, itself, answer):
    for room in (1, 2, 3, 4, 5, 60):
        tokens, cycles = _run(runtime, itself, room=room)
        assert tokens == answer[:room]
        assert [cycle.committed for cycle in cycles] == [4] * (room // 4) + [room % 4] * (room % 4 > 0)
        assert all(cycle.drafted == cycle.committed - 1 and not cycle.looked_up for cycle in cycles)


def test_none_begins_after_so_many_tokens_or_cycles(runtime, itself, answer):
    assert _run(runtime, itself, tokens=9)[0] == answer[:12]
    assert len(_run(runtime, itself, cycles=2)[1]) == 2
    assert len(_run(runtime, itself, cycles=1)[1]) == 1


def test_none_begins_after_so_long_or_after_so_much_was_lost(runtime, itself):
    assert len(_run(runtime, itself, seconds=0.0)[1]) == 1
    assert len(_run(runtime, itself, lost_s=0.0)[1]) == 1
    assert len(_run(runtime, itself, lost_s=0.0, token_s=10.0)[1]) == 15  # it is gaining


def test_none_begins_after_a_last_token(runtime, itself, answer):
    for position in (0, 2, 3, 4, 17):
        tokens, _ = _run(runtime, itself, last_tokens=answer[position : position + 1])
        end = answer.index(answer[position])
        assert tokens == answer[: len(tokens)] and end < len(tokens) <= end + 4


def test_a_draft_that_is_never_right_costs_cycles_and_nothing_else(runtime, answer):
    nothing = runtime.plan(DraftPolicy.uniform(3, 0))
    tokens, cycles = _run(runtime, StandingDraft(plan=nothing, longest=5), room=20)
    assert tokens == answer[:20] and len(cycles) > 8


def test_chains_end_where_the_draft_is_unsure(runtime, answer):
    plan = runtime.plan(DraftPolicy.uniform(3, 4))
    tokens, unsure = _run(runtime, StandingDraft(plan=plan, longest=5, stop=ChainStop(1.0)), room=20)
    assert tokens == answer[:20] and all(cycle.drafted == 1 for cycle in unsure[:-1])


def test_the_draft_is_asked_where_nothing_is_found(runtime, itself, answer):
    lookup = Lookup(num_tokens=6, max_ngram=2, min_ngram=2)
    draft = StandingDraft(lookup, itself.plan, itself.longest)
    tokens, cycles = _run(runtime, draft)
    assert tokens == answer and cycles[0].looked_up and cycles[0].drafted == 6
    assert any(cycle.drafted and not cycle.looked_up for cycle in cycles)
    tokens, cycles = _run(runtime, StandingDraft(lookup), room=30)
    assert tokens == answer[:30] and any(not cycle.drafted for cycle in cycles)


def test_more_than_the_context_holds_is_refused(runtime, itself):
    with pytest.raises(ContextLengthError):
        _run(runtime, itself, room=77)


def test_text_must_be_what_the_engine_can_write(runtime, itself):
    cache = runtime.new_cache()
    with pytest.raises(ValueError, match="contiguous int32"):
        runtime.run_cycles(cache, np.zeros(80, np.int64), itself, UNBOUNDED)
