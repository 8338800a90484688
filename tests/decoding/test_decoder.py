"""The decoding loop: output is the target's own whatever is drafted, and ends where it should."""

import pytest
import torch

from autodraft.cascade import Cascade
from autodraft.decoding import CascadeDecoder, SamplingConfig, choice
from autodraft.decoding.noise import DeviceNoise
from autodraft.errors import ContextLengthError, InputError
from autodraft.runtime import build_runtime
from tests.decoding.drafts import CASCADES, LOOKUP, HostileDrafter, OracleDrafter
from tests.decoding.paced import eager_decoder
from tests.runtime.tiny import tiny_model

PROMPTS = [[5], [1, 2, 3, 4, 1, 2, 3, 4, 1, 2], [90, 17, 33, 17, 33, 60, 2, 71]]
SAMPLINGS = {
    "greedy": SamplingConfig(),
    "greedy, penalty": SamplingConfig(repetition_penalty=1.2),
    "sampled": SamplingConfig(temperature=0.7),
    "sampled, filtered": SamplingConfig(temperature=1.3, top_k=20, top_p=0.9, repetition_penalty=1.1),
}


@pytest.fixture(scope="module")
def reference(runtime):
    """Autoregressive output by prompt and sampling."""
    decoder = CascadeDecoder(runtime)
    return {
        (tuple(prompt), name): decoder.generate(prompt, max_new_tokens=25, sampling=sampling, seed=7).tokens
        for prompt in PROMPTS
        for name, sampling in SAMPLINGS.items()
    }


def _check_stats(generation):
    stats = generation.stats
    assert stats.new_tokens == len(generation.tokens)
    assert stats.accepted_tokens <= stats.drafted_tokens
    assert stats.drafts or stats.autoregressive_cycles == stats.cycles
    # Several drafts may share a cycle, and one draft has none that is counted twice.
    drafting = stats.cycles - stats.autoregressive_cycles
    assert max(stats.draft_cycles, default=0) <= drafting <= sum(stats.draft_cycles)
    # Every cycle emits its accepted tokens and a bonus token, unless the output ends within the path.
    assert stats.cycles - 1 <= stats.new_tokens - stats.accepted_tokens <= stats.cycles
    assert stats.tokens_per_cycle == stats.new_tokens / stats.cycles


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("cascade", CASCADES)
def test_output_is_the_autoregressive_one(runtime, reference, cascade, sampling):
    decoder = eager_decoder(runtime, CASCADES[cascade])
    for prompt in PROMPTS:
        generation = decoder.generate(prompt, max_new_tokens=25, sampling=SAMPLINGS[sampling], seed=7)
        assert generation.tokens == reference[tuple(prompt), sampling]
        assert generation.finish_reason == "length"
        _check_stats(generation)


@pytest.mark.parametrize("sampling", ["sampled", "sampled, filtered"])
@pytest.mark.parametrize("cascade", CASCADES)
def test_output_is_the_autoregressive_one_with_noise_that_stays_on_a_device(hf_model, monkeypatch, cascade, sampling):
    monkeypatch.setattr(choice, "noise_stream", DeviceNoise)
    runtime = build_runtime(hf_model, max_length=256, backend="torch")
    outputs = [
        decoder.generate(PROMPTS[1], max_new_tokens=25, sampling=SAMPLINGS[sampling], seed=7).tokens
        for decoder in (CascadeDecoder(runtime), eager_decoder(runtime, CASCADES[cascade]))
    ]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("cascade", ["lookup", "tree", "vertical, lookup", "dytc, everything"])
def test_the_products_own_clock_and_guard_change_nothing(runtime, reference, cascade):
    decoder = CascadeDecoder(runtime, CASCADES[cascade])
    for prompt in PROMPTS:
        generation = decoder.generate(prompt, max_new_tokens=25)
        assert generation.tokens == reference[tuple(prompt), "greedy"]
        _check_stats(generation)
        stats = generation.stats
        assert min(stats.draft_s, stats.scheduling_s, stats.verify_s, stats.prefill_s) >= 0
        assert stats.draft_s + stats.scheduling_s + stats.verify_s <= stats.decode_s and stats.tokens_per_s > 0


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_hostile_drafts_change_nothing(runtime, reference, sampling):
    for seed, prompt in enumerate(PROMPTS):
        drafter = HostileDrafter(97, seed)
        decoder = CascadeDecoder(runtime, drafter=drafter)
        generation = decoder.generate(prompt, max_new_tokens=25, sampling=SAMPLINGS[sampling], seed=7)
        assert generation.tokens == reference[tuple(prompt), sampling]
        assert len(drafter.observed) == generation.stats.cycles
        assert sum(outcome.tree.num_drafted > 0 for outcome in drafter.observed) == generation.stats.draft_cycles[0]
        _check_stats(generation)


def test_a_right_path_behind_wrong_siblings_is_accepted_and_committed(runtime, reference):
    for prompt in PROMPTS:
        answer = reference[tuple(prompt), "greedy"]
        generation = CascadeDecoder(runtime, drafter=OracleDrafter(answer)).generate(prompt, max_new_tokens=25)
        assert generation.tokens == answer
        assert generation.stats.tokens_per_cycle_histogram == {4: 6, 1: 1}
        assert generation.stats.accepted_tokens == 18


def test_the_target_as_its_own_draft_is_always_accepted(runtime):
    decoder = eager_decoder(runtime, CASCADES["chain, target itself"])
    stats = decoder.generate(PROMPTS[1], max_new_tokens=43).stats
    # The last cycle drafts no more than can be emitted.
    assert stats.tokens_per_cycle_histogram == {5: 8, 3: 1}
    assert stats.drafted_tokens == stats.accepted_tokens == 34


def test_output_equals_the_hugging_face_model(hf_model, reference):
    for prompt in PROMPTS:
        expected = hf_model.generate(torch.tensor([prompt]), max_new_tokens=25, do_sample=False, eos_token_id=None)
        assert reference[tuple(prompt), "greedy"] == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("family", ["gemma2", "gemma3", "olmo3"])
def test_output_that_goes_beyond_a_window_equals_the_hugging_face_model(family, backend):
    model, prompt = tiny_model(family), [3 + token % 7 for token in range(120)]
    with torch.no_grad():
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=25, do_sample=False, eos_token_id=96)[0]
    runtime = build_runtime(model, max_length=256, backend=backend)
    for cascade in ("lookup", "tree", "dytc, everything"):
        generation = eager_decoder(runtime, CASCADES[cascade]).generate(prompt, max_new_tokens=25)
        assert generation.tokens == expected[len(prompt) :].tolist()


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_no_draft_reaches_beyond_its_own_window(backend):
    """A row that saw a path longer than that would choose another token."""
    runtime = build_runtime(tiny_model("mistral-window"), max_length=400, backend=backend)
    expected = CascadeDecoder(runtime).generate(PROMPTS[2], max_new_tokens=170).tokens
    generation = CascadeDecoder(runtime, drafter=OracleDrafter(expected, 150)).generate(PROMPTS[2], max_new_tokens=170)
    assert generation.tokens == expected
    assert max(generation.stats.tokens_per_cycle_histogram) == 128


@pytest.mark.parametrize("cascade", [Cascade(), *CASCADES.values()])
def test_max_new_tokens_is_exact(runtime, reference, cascade):
    decoder = eager_decoder(runtime, cascade)
    for count in (1, 2, 3, 7):
        generation = decoder.generate(PROMPTS[1], max_new_tokens=count)
        assert generation.tokens == reference[tuple(PROMPTS[1]), "greedy"][:count]
        assert generation.finish_reason == "length"


@pytest.mark.parametrize("position", range(12))
def test_eos_ends_the_output_anywhere_in_a_path(runtime, reference, position):
    answer = reference[tuple(PROMPTS[2]), "sampled"]
    eos = answer[position]
    first = answer.index(eos)
    for cascade in (Cascade(), CASCADES["chain, target itself"], CASCADES["dytc, one model"], CASCADES["tree"]):
        generation = eager_decoder(runtime, cascade).generate(
            PROMPTS[2], max_new_tokens=25, sampling=SAMPLINGS["sampled"], seed=7, eos={eos, 96}
        )
        assert (generation.tokens, generation.finish_reason) == (answer[: first + 1], "eos")
        _check_stats(generation)


@pytest.mark.parametrize("position", range(0, 25, 4))
def test_plain_decoding_ends_and_streams_like_any_other(runtime, reference, position):
    """Though it looks up only every few tokens."""
    answer, decoder, pieces = reference[tuple(PROMPTS[1]), "greedy"], CascadeDecoder(runtime), []
    end = answer.index(answer[position]) + 1
    ended = decoder.generate(PROMPTS[1], max_new_tokens=25, eos={answer[position], 96}, on_tokens=pieces.append)
    stopped = decoder.generate(PROMPTS[1], max_new_tokens=25, stop=lambda tokens: len(tokens) > position)
    assert (ended.tokens, ended.finish_reason) == (answer[:end], "eos")
    assert [token for piece in pieces for token in piece] == answer[:end]
    assert stopped.tokens == answer[: position + 1]
    assert stopped.finish_reason == "stop" and stopped.stats.cycles == stopped.stats.autoregressive_cycles
    _check_stats(ended)
    _check_stats(stopped)


def test_what_comes_after_the_end_in_an_accepted_path_is_neither_streamed_nor_counted(runtime):
    answer = CascadeDecoder(runtime).generate(PROMPTS[2], max_new_tokens=9).tokens
    pieces = []
    generation = CascadeDecoder(runtime, drafter=OracleDrafter(answer)).generate(
        PROMPTS[2], max_new_tokens=9, stop=lambda tokens: len(tokens) == 5, on_tokens=pieces.append
    )
    assert pieces == [answer[:4], answer[4:5]] and generation.tokens == answer[:5]
    assert generation.stats.tokens_per_cycle_histogram == {4: 1, 1: 1}
    assert generation.stats.accepted_tokens == 4


def test_eos_at_the_last_possible_token_counts_as_eos(runtime, reference):
    answer = reference[tuple(PROMPTS[2]), "sampled"]
    last = next(index for index in range(5, 25) if answer[index] not in answer[:index])
    generation = CascadeDecoder(runtime).generate(
        PROMPTS[2], max_new_tokens=last + 1, sampling=SAMPLINGS["sampled"], seed=7, eos=[answer[last]]
    )
    assert generation.finish_reason == "eos" and len(generation.tokens) == last + 1


def test_a_stop_condition_ends_within_a_path_and_sees_every_token_once(runtime, reference):
    answer = reference[tuple(PROMPTS[1]), "greedy"]
    calls = []

    def stop(tokens):
        calls.append(list(tokens))
        return len(tokens) == 8

    decoder = eager_decoder(runtime, CASCADES["chain, target itself"])
    generation = decoder.generate(PROMPTS[1], max_new_tokens=25, stop=stop)
    assert (generation.tokens, generation.finish_reason) == (answer[:8], "stop")
    assert calls == [answer[:count] for count in range(1, 9)]


@pytest.mark.parametrize("cascade", CASCADES.values())
def test_tokens_are_streamed_as_they_are_committed(runtime, cascade):
    pieces = []
    generation = eager_decoder(runtime, cascade).generate(PROMPTS[1], max_new_tokens=30, on_tokens=pieces.append)
    assert [token for piece in pieces for token in piece] == generation.tokens
    assert len(pieces) == generation.stats.cycles and all(pieces)


def test_seeds_reproduce_and_differ(runtime):
    decoder = eager_decoder(runtime, CASCADES["cascade"])
    sampling = SamplingConfig(temperature=1.5)

    def tokens(seed):
        return decoder.generate(PROMPTS[2], max_new_tokens=20, sampling=sampling, seed=seed).tokens

    assert tokens(1) == tokens(1) != tokens(2)
    assert tokens(None) != tokens(None)


def test_the_context_can_be_filled_to_the_last_token(runtime):
    prompt = [1 + index % 90 for index in range(240)]
    answer = CascadeDecoder(runtime).generate(prompt, max_new_tokens=16).tokens
    for cascade in CASCADES.values():
        assert eager_decoder(runtime, cascade).generate(prompt, max_new_tokens=16).tokens == answer


@pytest.mark.parametrize(("num_prompt", "max_new_tokens"), [(256, 1), (300, 1), (200, 57)])
def test_more_than_the_context_is_refused_in_one_line(runtime, num_prompt, max_new_tokens):
    with pytest.raises(ContextLengthError, match=f"{num_prompt} prompt tokens and {max_new_tokens} new") as caught:
        CascadeDecoder(runtime).generate([1] * num_prompt, max_new_tokens=max_new_tokens)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {"max_new_tokens": 4}, "prompt is empty"),
        ([1], {"max_new_tokens": 0}, "at least 1"),
        ([1, 97], {"max_new_tokens": 4}, "outside 0..96"),
        ([-1], {"max_new_tokens": 4}, "outside 0..96"),
    ],
)
def test_unusable_input_is_refused(runtime, prompt, options, message):
    with pytest.raises(InputError, match=message):
        CascadeDecoder(runtime).generate(prompt, **options)


def test_a_decoder_survives_an_error_in_a_callback(runtime, reference):
    decoder = CascadeDecoder(runtime, Cascade(drafts=(LOOKUP,)))
    with pytest.raises(RuntimeError, match="enough"):
        decoder.generate(PROMPTS[1], max_new_tokens=25, on_tokens=_raise)
    assert decoder.generate(PROMPTS[1], max_new_tokens=25).tokens == reference[tuple(PROMPTS[1]), "greedy"]


def _raise(tokens):
    raise RuntimeError("enough")
