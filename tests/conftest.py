"""Shared by all tests: a tiny model folder, and a profile that belongs to nobody."""

import datetime
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from autodraft.cascade import Cascade, PromptLookup, SelfDraft
from autodraft.policy import DraftPolicy
from autodraft.profile import (
    Baseline,
    DeviceStamp,
    DraftPrior,
    DraftProfile,
    Fingerprint,
    Interval,
    Measurement,
    Prediction,
    Priors,
    Provenance,
    TargetStamp,
    TaskFigures,
)

# Examples are timed by the machine's load, not by our code: no deadlines. Continuous integration judges a change by
# the same examples every time; runs by hand go on looking for new ones.
hypothesis.settings.register_profile("autodraft", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("autodraft")

# Triton decides between its interpreter and a device's compiler when it is imported, which other libraries do as well.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def save_tiny_model(folder: Path, seed: int = 0) -> Path:
    """A random Llama of two blocks with a byte-level tokenizer, in Hugging Face's format."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads only wait for each other on models this small; the setting is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `save_tiny_model`."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def profile() -> DraftProfile:
    """A complete profile with invented figures, for a target of two blocks."""
    speedup = Interval(median=1.6, ci_low=1.5, ci_high=1.75)
    figures = {"speedup": speedup, "tokens_per_s": 160.0, "baseline_tokens_per_s": 100.0, "tokens_per_cycle": 2.5}
    return DraftProfile(
        conclusion="speculate",
        target=TargetStamp(
            name="tiny",
            path="/models/tiny",
            family="llama",
            dtype="float32",
            fingerprint=Fingerprint(config="a" * 64, weights="b" * 64),
        ),
        device=DeviceStamp(kind="cpu", name="a processor", cores=2, threads=2, backend="torch"),
        cascade=Cascade(drafts=(PromptLookup(), SelfDraft(policy=DraftPolicy.uniform(2, 8), num_draft_tokens=3))),
        priors=Priors(
            drafts=(DraftPrior(alpha=0.4, cost=0.0), DraftPrior(alpha=0.9, cost=0.35, extra_bytes=4096)),
            verify_cost={1: 1.0, 4: 1.125, 9: 1.25},
            tokens_per_cycle=2.5,
        ),
        measurement=Measurement(
            **figures,
            num_prompts=8,
            new_tokens_per_prompt=64,
            tasks=(TaskFigures(**figures, num_prompts=4, task="edit"),),
        ),
        predicted=Prediction(speedup=1.7, tokens_per_cycle=2.6),
        baselines=(
            Baseline(name="autoregressive", tokens_per_s=100.0),
            Baseline(name="hf-generate", tokens_per_s=70.0, speedup=Interval(median=0.7, ci_low=0.69, ci_high=0.71)),
        ),
        provenance=Provenance(
            study="autodraft",
            storage="sqlite:///study.db",
            trial=12,
            seed=0,
            command="autodraft search --model tiny",
            created=datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        ),
    )
