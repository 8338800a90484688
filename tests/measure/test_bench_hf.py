"""Transformers' modes: the depth-pruned assistant against a model built that way, and what cannot run says why."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM

from autodraft.cascade import AUTOREGRESSIVE
from autodraft.decoding import SamplingConfig, probabilities
from autodraft.measure.bench import run_bench
from autodraft.measure.hf import HF_METHODS, HFBaseline, HFModeUnavailableError, _FirstTokens
from autodraft.measure.hf_pruned import depth_pruned, spread_blocks
from autodraft.measure.methods import METHODS, BenchContext, Ready, Unavailable
from autodraft.runtime import LoadedModel, build_runtime, load_model
from tests.runtime.tiny import tiny_model

PROMPT = (5, 9, 7, 30, 41, 5, 9)


def loaded_from(folder: Path, family: str) -> LoadedModel:
    """A tiny model of a family; `generate` never asks for a tokenizer."""
    model = tiny_model(family)
    model.save_pretrained(folder)
    runtime = build_runtime(model, backend="torch")
    return LoadedModel(runtime, None, family, str(folder), 1, None, {}, frozenset())


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(ids).logits
    return found


@pytest.mark.parametrize("family", ["llama", "qwen2", "opt"])
def test_a_pruned_copy_is_the_model_with_those_blocks_and_shares_its_weights(family: str) -> None:
    model, kept = tiny_model(family), (0, 2)
    ids = torch.tensor([list(PROMPT)])
    before = logits(model, ids)
    pruned = depth_pruned(model, kept)

    built = tiny_model(family, num_hidden_layers=len(kept))
    renumbered = {}
    for name, tensor in model.state_dict().items():
        match = re.search(r"layers\.(\d+)\.", name)
        if match is None or int(match[1]) in kept:
            number = match and f"layers.{kept.index(int(match[1]))}."
            renumbered[re.sub(r"layers\.\d+\.", number, name) if number else name] = tensor
    built.load_state_dict(renumbered)
    torch.testing.assert_close(logits(pruned, ids), logits(built, ids))

    shared = {tensor.data_ptr() for tensor in model.parameters()}
    assert all(tensor.data_ptr() in shared for tensor in pruned.parameters())
    torch.testing.assert_close(logits(model, ids), before, rtol=0, atol=0)
    assert model.config.num_hidden_layers == 3


@pytest.mark.parametrize(
    ("num_blocks", "num_kept", "expected"),
    [(16, 4, [0, 5, 10, 15]), (8, 1, [0]), (5, 3, [0, 2, 4]), (4, 4, [0, 1, 2, 3])],
)
def test_kept_blocks_are_spread_over_the_depth(num_blocks: int, num_kept: int, expected: list[int]) -> None:
    assert spread_blocks(num_blocks, num_kept) == expected


def test_every_mode_gives_the_greedy_output(tmp_path: Path) -> None:
    context = BenchContext(loaded_from(tmp_path, "llama"), None, PROMPT)
    outputs, settings = {}, {}
    for name in HF_METHODS:
        method = METHODS[name](context)
        assert isinstance(method, Ready), method
        outputs[name] = method.contestant(PROMPT, 20).tokens
        settings[name] = method.settings
    greedy = context.decoder(AUTOREGRESSIVE)(PROMPT, 20).tokens
    assert outputs == dict.fromkeys(HF_METHODS, greedy)
    assert settings["hf-early-exit"]["assistant_early_exit"] in ("1", "2")
    assert settings["hf-assistant"]["blocks of the assistant"] in ("0", "0 2")
    assert all("attn_implementation" in chosen for chosen in settings.values())


def test_the_clock_is_read_once_when_the_first_tokens_are_there() -> None:
    first = _FirstTokens(prompt_tokens=3)
    assert not first(torch.zeros((1, 5), dtype=torch.long), scores=None).any()
    seconds = first.seconds
    assert not first(torch.zeros((1, 9), dtype=torch.long)).any()
    assert first.tokens == 2 and 0 < seconds == first.seconds <= first.since_start


def test_what_transformers_cannot_do_is_said_and_harms_nothing(tmp_path: Path) -> None:
    context = BenchContext(loaded_from(tmp_path, "opt"), None, PROMPT)
    plain = METHODS["hf-generate"](context)
    assert isinstance(plain, Ready)
    before = plain.contestant(PROMPT, 12).tokens
    exiting = METHODS["hf-early-exit"](context)
    assert isinstance(exiting, Unavailable) and "transformers: IndexError" in exiting.reason
    assert plain.contestant(PROMPT, 12).tokens == before
    with pytest.raises(HFModeUnavailableError):
        context.hf.fastest_mode("hf-early-exit")


def test_sampling_is_seeded_by_prompt_and_leaves_the_global_generator_alone(tiny_model_folder: Path) -> None:
    loaded = load_model(str(tiny_model_folder), backend="torch")
    sampling = SamplingConfig(temperature=1.0)
    first, again, other = (HFBaseline(loaded, PROMPT, sampling, seed) for seed in (1, 1, 2))
    state = torch.get_rng_state()
    tokens = first.run(PROMPT, 24).tokens
    assert torch.equal(torch.get_rng_state(), state)
    assert tokens == again.run(PROMPT, 24).tokens != other.run(PROMPT, 24).tokens


VOCABULARY = 8
SAMPLINGS = {
    "temperature": SamplingConfig(temperature=0.7),
    "all filters": SamplingConfig(temperature=0.7, top_k=6, top_p=0.9),
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Four blocks, and a vocabulary of 8, so that every token is drawn often."""
    folder, sizes = tmp_path_factory.mktemp("small"), {"hidden_size": 32, "intermediate_size": 32}
    model = tiny_model("llama", seed=1, vocab_size=VOCABULARY, num_hidden_layers=4, tie_word_embeddings=False, **sizes)
    with torch.no_grad():
        model.lm_head.weight.mul_(2.5)  # else all tokens are nearly as likely, at any temperature
    model.save_pretrained(folder)
    return LoadedModel(build_runtime(model, backend="torch"), None, "small", str(folder), 1, None, {}, frozenset())


def p_value(loaded: LoadedModel, outputs: dict[tuple[int, ...], tuple[int, ...]], sampling: SamplingConfig) -> float:
    """Of outputs by prompt: how often the likeliest token was chosen, the second likeliest, ..., at every position.

    The chosen ranks minus their probabilities given what stands before have mean 0 and a known covariance.
    """
    model = AutoModelForCausalLM.from_pretrained(loaded.path, dtype=torch.float32).eval()
    surplus, covariance = np.zeros(VOCABULARY), np.zeros((VOCABULARY, VOCABULARY))
    for prompt, output in outputs.items():
        text = torch.tensor([[*prompt, *output]])
        rows = logits(model, text)[0, len(prompt) - 1 : -1].float()
        for probs, token in zip(probabilities(rows, sampling).numpy(), output, strict=True):
            order = np.argsort(-probs)
            surplus += (order == token) - probs[order]
            covariance += np.diag(probs[order]) - np.outer(probs[order], probs[order])
    statistic = surplus @ np.linalg.pinv(covariance, rcond=1e-9, hermitian=True) @ surplus
    return float(stats.chi2.sf(statistic, np.linalg.matrix_rank(covariance, tol=1e-9, hermitian=True)))


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_every_mode_samples_the_targets_distribution(small: LoadedModel, sampling: SamplingConfig) -> None:
    baseline = HFBaseline(small, PROMPT[:1], sampling, seed=5)
    random = np.random.default_rng(0)
    prompts = [tuple(random.integers(VOCABULARY, size=5).tolist()) for _ in range(60)]
    for name in HF_METHODS:
        run = baseline.contestant(baseline.modes(name)[-1])
        outputs = {prompt: run(prompt, 10).tokens for prompt in prompts}
        assert p_value(small, outputs, sampling) > 1e-3, name
        assert p_value(small, outputs, SamplingConfig(temperature=1.0)) < 1e-6  # it can tell


def test_a_sampled_bench_has_the_modes_of_transformers(tiny_model_folder: Path) -> None:
    report = run_bench(
        load_model(str(tiny_model_folder)), methods=HF_METHODS, num_prompts=2, new_tokens_per_prompt=12, temperature=0.7
    )
    assert set(report.kinds) == {"autoregressive", *HF_METHODS} and not report.unavailable
    assert report.row("autoregressive").is_identical
    for name in HF_METHODS:
        assert report.row(name).num_identical is None and report.row(name).tokens_per_s > 0
        chosen = report.settings[name]
        assert (chosen["do_sample"], chosen["temperature"], chosen["top_k"]) == ("True", "0.7", "0")
