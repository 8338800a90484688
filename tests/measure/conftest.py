"""A tiny random target for the measuring tests."""

from __future__ import annotations

import pytest
import torch

from autodraft.runtime import TransformerRuntime, build_runtime
from tests.runtime.tiny import tiny_model


@pytest.fixture(scope="session")
def runtime() -> TransformerRuntime:
    torch.manual_seed(0)
    return build_runtime(tiny_model("llama"))
