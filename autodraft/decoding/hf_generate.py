"""`custom_generate`: a `CascadeDecoder` behind the `generate` of a Hugging Face model.

    model.generate(input_ids, custom_generate=custom_generate(decoder), max_new_tokens=100)

Knows nothing of decoding: it reads what `generate` has prepared (length, EOS, logits processors, stopping criteria) and
refuses, in one line, what the decoder cannot honour exactly. Written for transformers 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers.generation.configuration_utils import GenerationConfig
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria, StoppingCriteriaList
from transformers.generation.utils import GenerateDecoderOnlyOutput
from transformers.modeling_utils import PreTrainedModel

from autodraft.decoding.decoder import CascadeDecoder
from autodraft.decoding.sampling import SamplingConfig
from autodraft.decoding.stats import StopCondition
from autodraft.errors import InputError

_PROCESSORS: tuple[tuple[type, str, str], ...] = (
    (RepetitionPenaltyLogitsProcessor, "penalty", "repetition_penalty"),
    (TemperatureLogitsWarper, "temperature", "temperature"),
    (TopKLogitsWarper, "top_k", "top_k"),
    (TopPLogitsWarper, "top_p", "top_p"),
)
"""Processors that `SamplingConfig` reproduces, in its order: class, its attribute, our field."""

_HARMLESS = {"use_cache", "logits_to_keep", "cache_position"}
_UNAVAILABLE_OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")

GenerateFunction = Callable[..., Any]


def custom_generate(decoder: CascadeDecoder) -> GenerateFunction:
    """The function to give to `model.generate(..., custom_generate=...)` of the model that is the decoder's target.

    Honours the generation config (max_length, EOS, do_sample, temperature, top_k, top_p, repetition_penalty), stopping
    criteria, `return_dict_in_generate`, and torch's global seed. `generate` does not hand its own `streamer` to a
    custom function: pass `text_streamer=` instead. Batches, beams, padding and other logits processors raise
    `InputError`.
    """

    def generate(
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        text_streamer: Any = None,
        **model_kwargs: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        _check_request(decoder, model, input_ids, generation_config)
        _check_model_kwargs(input_ids, model_kwargs)
        eos, stop = _stop_condition(input_ids, stopping_criteria)
        generation = decoder.generate(
            input_ids[0].tolist(),
            max_new_tokens=int(generation_config.max_length) - input_ids.shape[1],
            sampling=_sampling_config(generation_config, logits_processor),
            eos=eos,
            stop=stop,
            on_tokens=None if text_streamer is None else lambda tokens: _stream(text_streamer, tokens),
            seed=int(torch.randint(2**63 - 1, ()).item()) if generation_config.do_sample else None,
        )
        if text_streamer is not None:
            text_streamer.end()
        sequences = torch.cat([input_ids, input_ids.new_tensor([generation.tokens])], dim=1)  # [1, tokens]
        if generation_config.return_dict_in_generate:
            return GenerateDecoderOnlyOutput(sequences=cast(torch.LongTensor, sequences))
        return sequences

    return generate


def _check_request(
    decoder: CascadeDecoder, model: PreTrainedModel, input_ids: Tensor, generation_config: GenerationConfig
) -> None:
    if (generation_config.num_beams or 1) > 1:
        raise InputError("speculative decoding has no beams; generate with num_beams=1")
    if input_ids.shape[0] != 1:
        raise InputError(f"the decoder runs one sequence at a time; this batch has {input_ids.shape[0]}")
    for option in _UNAVAILABLE_OUTPUTS:
        if getattr(generation_config, option, None):
            raise InputError(f"{option}=True is not available with an autodraft decoder")
    vocab_size = model.config.get_text_config().vocab_size
    if vocab_size != decoder.runtime.spec.vocab_size:
        raise InputError("the decoder was made for another model: the vocabularies differ in size")


def _check_model_kwargs(input_ids: Tensor, model_kwargs: dict[str, Any]) -> None:
    """Refuse inputs that would change the output and that the decoder does not see."""
    for name, value in model_kwargs.items():
        if value is None or name in _HARMLESS:
            continue
        if name == "attention_mask":
            if not bool((value != 0).all()):
                raise InputError("the attention mask hides tokens; give the prompt without padding")
        elif name == "position_ids":
            if not torch.equal(value.reshape(-1).cpu(), torch.arange(input_ids.shape[1])):
                raise InputError("position_ids must be 0, 1, 2, ... with an autodraft decoder")
        elif name in ("past_key_values", "cache"):  # transformers 5.24 gave it a new name
            if value.get_seq_length() > 0:
                raise InputError(f"{name} is not supported: an autodraft decoder has its own cache")
        else:
            raise InputError(f"{name} is not supported with an autodraft decoder")


def _sampling_config(generation_config: GenerationConfig, processors: LogitsProcessorList) -> SamplingConfig:
    """The settings that have the same effect as the processors, or an `InputError` that names the one that has none."""
    settings: dict[str, Any] = {"temperature": 1.0 if generation_config.do_sample else 0.0}
    types = [processor_type for processor_type, _, _ in _PROCESSORS]
    previous = -1
    for processor in processors:
        name = type(processor).__name__
        if type(processor) not in types:
            raise InputError(f"the logits processor {name} is not supported with an autodraft decoder")
        number = types.index(type(processor))
        if number <= previous or (number > 0 and not generation_config.do_sample):
            raise InputError(f"the logits processor {name} comes twice, out of order, or without do_sample=True")
        if getattr(processor, "prompt_ignore_length", None) is not None:
            raise InputError("a repetition penalty that ignores the prompt is not supported with an autodraft decoder")
        _, attribute, setting = _PROCESSORS[number]
        settings[setting] = getattr(processor, attribute)
        previous = number
    return SamplingConfig(**settings)


def _stop_condition(input_ids: Tensor, criteria: StoppingCriteriaList) -> tuple[frozenset[int], StopCondition | None]:
    """EOS token ids, and one condition for all criteria other than EOS and length, which the decoder knows itself."""
    eos: set[int] = set()
    others: list[Callable[..., Tensor]] = []
    for criterion in criteria:
        if isinstance(criterion, EosTokenCriteria):
            eos.update(criterion.eos_token_id.reshape(-1).tolist())
        elif not isinstance(criterion, MaxLengthCriteria):
            others.append(criterion)
    if not others:
        return frozenset(eos), None

    def stop(tokens: list[int]) -> bool:
        sequence = torch.cat([input_ids, input_ids.new_tensor([tokens])], dim=1)
        return any(bool(torch.as_tensor(criterion(sequence, None)).all()) for criterion in others)

    return frozenset(eos), stop


def _stream(streamer: Any, tokens: Sequence[int]) -> None:
    """Streamers take one token at a time."""
    for token in tokens:
        streamer.put(torch.tensor([token]))
