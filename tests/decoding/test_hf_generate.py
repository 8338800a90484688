"""The bridge to Hugging Face's `generate`: same results, and a clear refusal of what it cannot honour."""

import pytest
import torch
from transformers import LogitsProcessor, StoppingCriteria, set_seed
from transformers.generation import GenerateDecoderOnlyOutput, TopKLogitsWarper

from autodraft.decoding import CascadeDecoder, SamplingConfig, custom_generate
from autodraft.errors import ContextLengthError, InputError
from tests.decoding.drafts import CASCADES
from tests.runtime.tiny import tiny_model

PROMPT = torch.tensor([[1, 2, 3, 4, 1, 2, 3, 4, 1, 2]])


@pytest.fixture(scope="module")
def decoder(runtime):
    return CascadeDecoder(runtime, CASCADES["cascade"])


@pytest.fixture
def generate(hf_model, decoder):
    def call(input_ids=PROMPT, **options):
        return hf_model.generate(input_ids, custom_generate=custom_generate(decoder), **options)

    return call


@pytest.mark.parametrize("cascade", CASCADES)
@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.3}])
def test_greedy_equals_generate(hf_model, runtime, cascade, options):
    options = {"max_new_tokens": 30, "do_sample": False, **options}
    function = custom_generate(CascadeDecoder(runtime, CASCADES[cascade]))
    ours = hf_model.generate(PROMPT, custom_generate=function, **options)
    assert ours.dtype == torch.long
    assert torch.equal(ours, hf_model.generate(PROMPT, **options))


def test_length_and_eos_of_the_generation_config(hf_model, generate):
    whole = hf_model.generate(PROMPT, max_length=30, do_sample=False)
    assert torch.equal(generate(max_length=30, do_sample=False), whole)
    options = {"max_length": 30, "do_sample": False, "eos_token_id": [int(whole[0, 14]), 96], "pad_token_id": 0}
    assert torch.equal(generate(**options), hf_model.generate(PROMPT, **options))


class _Above(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return input_ids[:, -3:].sum(-1) > 150


def test_stopping_criteria_are_asked_after_each_token(hf_model, generate):
    options = {"max_new_tokens": 60, "do_sample": False, "stopping_criteria": [_Above()]}
    expected = hf_model.generate(PROMPT, **options)
    assert expected.shape[1] < 70
    assert torch.equal(generate(**options), expected)


def test_sampling_settings_and_global_seed(decoder, generate):
    options = {"max_new_tokens": 12, "do_sample": True, "temperature": 0.8, "top_k": 30, "top_p": 0.9}
    set_seed(4)
    first = generate(**options)
    set_seed(4)
    assert torch.equal(generate(**options), first)
    assert not torch.equal(generate(**options), first)
    set_seed(4)
    seed = int(torch.randint(2**63 - 1, ()))
    sampling = SamplingConfig(temperature=0.8, top_k=30, top_p=0.9)
    tokens = decoder.generate(PROMPT[0].tolist(), max_new_tokens=12, sampling=sampling, seed=seed).tokens
    assert first[0, PROMPT.shape[1] :].tolist() == tokens


def test_a_dictionary_where_asked_for(hf_model, generate):
    output = generate(max_new_tokens=5, do_sample=False, return_dict_in_generate=True)
    assert isinstance(output, GenerateDecoderOnlyOutput)
    assert torch.equal(output.sequences, hf_model.generate(PROMPT, max_new_tokens=5, do_sample=False))


class _Streamer:
    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens += value.reshape(-1).tolist()

    def end(self):
        self.ended = True


def test_text_streamer_gets_the_new_tokens(generate):
    streamer = _Streamer()
    output = generate(max_new_tokens=9, do_sample=False, text_streamer=streamer)
    assert streamer.tokens == output[0, PROMPT.shape[1] :].tolist() and streamer.ended


class _Nothing(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2, "do_sample": False}, "no beams"),
        ({"num_return_sequences": 2, "do_sample": True}, "one sequence at a time"),
        ({"input_ids": PROMPT.repeat(2, 1)}, "one sequence at a time"),
        ({"attention_mask": torch.tensor([[0] + [1] * 9])}, "padding"),
        ({"min_p": 0.1, "do_sample": True}, "MinPLogitsWarper"),
        ({"logits_processor": [_Nothing()]}, "_Nothing"),
        ({"do_sample": True, "temperature": 0.5, "logits_processor": [TopKLogitsWarper(5)]}, "TemperatureLogitsWarper"),
        ({"logits_processor": [TopKLogitsWarper(5)]}, "do_sample"),
        ({"no_repeat_ngram_size": 2}, "NoRepeatNGram"),
        ({"return_dict_in_generate": True, "output_scores": True}, "output_scores"),
    ],
)
def test_what_cannot_be_honoured_is_refused_in_one_line(generate, options, message):
    with pytest.raises(InputError, match=message) as caught:
        generate(**{"max_new_tokens": 4, "do_sample": False, **options})
    assert "\n" not in str(caught.value)


def test_another_models_decoder_is_refused(decoder):
    other = tiny_model("llama", vocab_size=40)
    with pytest.raises(InputError, match="another model"):
        other.generate(PROMPT, custom_generate=custom_generate(decoder), max_new_tokens=4, do_sample=False)


def test_more_than_the_context_is_refused(generate):
    with pytest.raises(ContextLengthError):
        generate(max_new_tokens=300, do_sample=False)
