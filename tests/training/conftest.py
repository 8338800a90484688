"""A tiny corpus, tokenizer and configuration, so that a training run takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from autodraft.training.config import ModelShape, Phase, TrainConfig
from autodraft.training.corpus import Corpus, SourceFile, split
from autodraft.training.tokens import EncodedCorpus, prepare

TINY_SHAPE = ModelShape(
    vocab_size=320,
    hidden_size=32,
    intermediate_size=48,
    num_blocks=3,
    num_heads=2,
    num_kv_heads=1,
    max_positions=64,
)


@pytest.fixture(scope="module", autouse=True)
def tiny_models(one_thread):
    """All tests here run on one thread."""


@pytest.fixture(scope="session")
def tiny_corpus() -> Corpus:
    body = "def function_{n}(value, other):\n    total = value + other\n    return total * {n}\n\n\n"
    return split(SourceFile(f"module_{n}.py", "".join(body.format(n=n + i) for i in range(8))) for n in range(120))


@pytest.fixture(scope="session")
def tiny_data(tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> EncodedCorpus:
    folder: Path = tmp_path_factory.mktemp("data")
    return prepare(tiny_corpus, folder, TINY_SHAPE.vocab_size, TINY_SHAPE.max_positions)


@pytest.fixture
def tiny_config() -> TrainConfig:
    return TrainConfig(
        shape=TINY_SHAPE,
        tokens=40 * 256,
        tokens_per_step=256,
        phases=(Phase(0.0, {32: 1.0}), Phase(0.5, {32: 0.5, 64: 0.5})),
        layer_dropout=0.2,
        eval_windows=4,
        eval_length=64,
    )
