"""Tiny random targets on the real runtime."""

import pytest

from autodraft.errors import InputError
from autodraft.runtime import TransformerRuntime, build_runtime
from tests.runtime.tiny import tiny_model


@pytest.fixture(scope="module", autouse=True)
def tiny_models(one_thread):
    """All tests here run on one thread."""


@pytest.fixture(scope="session")
def hf_model():
    """Untied, since a tied one this small says its last token again and again, which any draft would guess."""
    return tiny_model("llama", seed=7, tie_word_embeddings=False)


@pytest.fixture(scope="session", params=["native", "torch"])
def runtime(hf_model, request) -> TransformerRuntime:
    """Three blocks, 97 tokens, float32, on each backend."""
    try:
        return build_runtime(hf_model, max_length=256, backend=request.param)
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def small_hf_model():
    """One block, 8 tokens: few enough to enumerate."""
    return tiny_model(
        "llama", seed=3, vocab_size=8, hidden_size=32, num_hidden_layers=1, intermediate_size=32, num_attention_heads=2
    )


@pytest.fixture(scope="session")
def small_runtime(small_hf_model) -> TransformerRuntime:
    return build_runtime(small_hf_model, max_length=64)
