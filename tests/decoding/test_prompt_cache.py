"""Keys that are used again: outputs are those of a decoder that begins anew, and only what is new is prefilled."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autodraft.cascade import AUTOREGRESSIVE
from autodraft.decoding import CascadeDecoder, PromptCache
from autodraft.decoding.stats import Generation
from tests.decoding.drafts import CASCADES

TEXTS = st.lists(st.integers(1, 3), min_size=1, max_size=12)
SHARING = ("lookup", "tree", "dytc, everything")


@pytest.fixture
def prefilled(runtime, monkeypatch):
    """Tokens of every prefill."""
    calls, prefill = [], runtime.prefill

    def note(cache, tokens):
        calls.append(list(tokens))
        prefill(cache, tokens)

    monkeypatch.setattr(runtime, "prefill", note)
    return calls


def decode(decoder, prompt) -> Generation:
    return decoder.generate(prompt, max_new_tokens=9)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=st.lists(st.tuples(TEXTS, st.integers(0, 3), st.booleans()), min_size=1, max_size=5))
def test_decoders_that_share_keys_give_what_they_give_alone(runtime, prompts):
    cache, before = PromptCache(runtime), []
    cascades = (AUTOREGRESSIVE, *(CASCADES[name] for name in SHARING))
    decoders = [CascadeDecoder(runtime, cascade, prompt_cache=cache) for cascade in cascades]
    for added, which, goes_on in prompts:
        prompt = before + added if goes_on else added
        found = decode(decoders[which], prompt).tokens
        assert found == decode(CascadeDecoder(runtime), prompt).tokens
        before = prompt + found


def test_only_what_is_new_is_prefilled(runtime, prefilled):
    cache = PromptCache(runtime)
    plain, drafting = (
        CascadeDecoder(runtime, each, prompt_cache=cache) for each in (CASCADES["lookup"], CASCADES["tree"])
    )
    prompt = [5, 17, 3, 80, 44]
    answer = decode(plain, prompt).tokens
    decode(drafting, prompt)
    longer = [*prompt, *answer, 7, 8]
    decode(drafting, longer)
    decode(plain, longer[:3])
    decode(plain, [5, 17, 9, 80, 44])
    # The last tokens of an answer may not have been run: nothing came after them.
    whole, again, turn, shorter, parted = prefilled
    assert whole == prompt[:-1] and again == [] and shorter == [] and parted == [9, 80]
    assert turn == longer[len(longer) - 1 - len(turn) : -1] and 1 <= len(turn) <= 2
    assert decode(CascadeDecoder(runtime), longer).tokens == decode(drafting, longer).tokens


def test_a_generation_that_was_interrupted_leaves_no_wrong_keys(runtime):
    decoder = CascadeDecoder(runtime, CASCADES["lookup"], prompt_cache=PromptCache(runtime))
    prompt = [5, 17, 3, 5, 17, 3, 5, 17]

    def interrupt(tokens):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decoder.generate(prompt, max_new_tokens=20, on_tokens=interrupt)
    for text in (prompt, [*prompt, 3, 5, 17, 4], prompt[:4]):
        assert decode(decoder, text).tokens == decode(CascadeDecoder(runtime), text).tokens
