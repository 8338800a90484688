"""Incremental text and stop strings, on a byte-level tokenizer in which characters span tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from autodraft.decoding import CascadeDecoder, IncrementalText, StopStrings
from autodraft.errors import InputError
from tests.decoding.drafts import CASCADES
from tests.decoding.paced import eager_decoder


def _byte_tokenizer():
    """One token per byte, and one special token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: number for number, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


TOKENIZER = _byte_tokenizer()


def _tokens(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


def _run(stop, tokens):
    """What the decoder does: ask after each token, streaming what can be printed."""
    printed = ""
    for count in range(1, len(tokens) + 1):
        stopped = stop(tokens[:count])
        printed += stop.printable()
        if stopped:
            break
    return count, printed + stop.printable(final=True)


@given(st.text(alphabet="ab é€😀\n", max_size=20), st.integers(1, 4))
def test_incremental_text_is_the_whole_text(text, step):
    tokens = _tokens(text)
    incremental = IncrementalText(TOKENIZER)
    pieces = [incremental.push(tokens[start : start + step]) for start in range(0, len(tokens), step)]
    assert "".join(pieces) + incremental.finish() == incremental.text == text


def test_a_character_appears_when_it_is_whole_and_specials_do_not():
    incremental = IncrementalText(TOKENIZER)
    tokens = _tokens("a😀")
    assert incremental.push(tokens[:3]) == "a"
    assert incremental.push(tokens[3:]) == "😀"
    assert incremental.push([TOKENIZER.eos_token_id]) == ""


def test_an_incomplete_character_comes_out_at_the_end():
    incremental = IncrementalText(TOKENIZER)
    assert incremental.push(_tokens("😀")[:2]) == ""
    assert incremental.finish() == "\ufffd"


@given(st.text(alphabet="abc€", max_size=30), st.lists(st.text(alphabet="abc€", min_size=1, max_size=4), max_size=3))
def test_stops_at_the_first_string_and_never_prints_it(text, strings):
    stop = StopStrings(TOKENIZER, strings)
    tokens = _tokens(text)
    if not tokens:
        return
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(string) for string in strings)]
    count, printed = _run(stop, tokens)
    if not ends:
        assert stop.matched is None and count == len(tokens)
        assert printed == stop.text == text
        return
    end = ends[0]
    matched = max((string for string in strings if text[:end].endswith(string)), key=len)
    assert stop.matched == matched and count == len(_tokens(text[:end]))
    assert printed == stop.text == text[: end - len(matched)]


def test_one_object_serves_one_generation_after_another():
    stop = StopStrings(TOKENIZER, ["bc"])
    assert _run(stop, _tokens("abcd")) == (3, "a")
    assert _run(stop, _tokens("xyz")) == (3, "xyz")
    assert stop.matched is None


def test_a_stop_string_ends_decoding_across_a_path(runtime):
    """The tiny target speaks in printable bytes; its own output gives the string to stop at."""
    prompt = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]
    whole = CascadeDecoder(runtime).generate(prompt, max_new_tokens=30).tokens
    text = TOKENIZER.decode(whole)
    string = text[3:6]
    cut = text.index(string)
    for cascade in CASCADES.values():
        stop = StopStrings(TOKENIZER, [string])
        generation = eager_decoder(runtime, cascade).generate(prompt, max_new_tokens=30, stop=stop)
        assert generation.finish_reason == "stop" and stop.matched == string
        assert stop.text == text[:cut]
        assert generation.tokens == whole[: cut + 3]


@pytest.mark.parametrize("strings", ["abc", [""], [3]])
def test_unusable_strings_are_refused(strings):
    with pytest.raises(InputError, match="stop strings"):
        StopStrings(TOKENIZER, strings)
