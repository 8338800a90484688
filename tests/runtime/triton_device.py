"""Where the tests of the Triton kernels run: on a CUDA device if there is one, otherwise in Triton's interpreter.

The interpreter shows what is computed, not that a GPU's compiler makes the same of it. Which of the two it is says
tests/conftest.py, before anything imports Triton.
"""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from autodraft.runtime import TransformerRuntime
from autodraft.runtime.hf_weights import read_weights
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.torch_backend import TorchBackend

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed; PyTorch's CUDA builds for Linux bring it along")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    if request.param == "interpreter":
        if torch.cuda.is_available():
            pytest.skip("the kernels are compiled for the device in this process")
        _let_loops_end(monkeypatch)
        _multiply_row_by_row(monkeypatch)
    return torch.device("cuda" if request.param == "cuda" else "cpu")


def _let_loops_end(monkeypatch):
    """Triton 3.6's interpreter makes loop bounds of arrays with one element in a way that NumPy 2.4 refuses."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_with_index(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_with_index)


def _multiply_row_by_row(monkeypatch):
    """The interpreter's products are NumPy's, some of whose kernels round a row by its place among the others."""
    from triton.runtime import interpreter

    def create_dot(self, a, b, total, *precision):
        kind = total.data.dtype
        product = np.einsum("ik,kj->ij", a.data.astype(kind), b.data.astype(kind), optimize=False)
        return interpreter.TensorHandle(product + total.data, total.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture(params=DTYPES)
def dtype(request, device):
    if request.param == "bfloat16" and device.type == "cpu":
        pytest.skip("Triton's interpreter computes with the bits of bfloat16 as if they were integers")
    return DTYPES[request.param]


def runtime_of(model, device, kind, *, byte_planes=False, max_length=512):
    """A runtime on `device` over the linear maps `kind`."""
    spec, model = ModelSpec.from_config(model.config), model.to(device)
    weights = read_weights(model, spec, byte_planes=byte_planes)
    backend = TorchBackend(spec, weights, model.dtype, device, kind)
    return TransformerRuntime(spec, backend, dtype=model.dtype, device=device, max_length=max_length)
