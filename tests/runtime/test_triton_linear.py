"""The low-bit products for CUDA: against plain PyTorch, and row by row to the bit.

Where there is a CUDA device they run on it, otherwise in Triton's interpreter, which shows what is computed but not
that a GPU's compiler makes the same of it. Triton decides between the two when a kernel is defined.
"""

import logging
import os
from importlib.util import find_spec

import pytest
import torch

from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.runtime import Rows, TransformerRuntime, linears
from autodraft.runtime.linears import SimulatedLinears, linears_for
from autodraft.runtime.quantization import fake_quantize, quantize_int4
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.torch_backend import TorchBackend
from autodraft.runtime.weights import TargetWeights
from tests.runtime.tiny import tiny_model

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

BITS = (16, 8, 4)
# Whole tiles; remainders; inputs that are no multiple of 8 either.
SHAPES = {(32, 256): (1, 17), (33, 80): (16,), (20, 70): (*range(1, 17), 33)}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TOKENS = torch.randint(0, 97, (6,), generator=torch.Generator().manual_seed(3)).tolist()


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
    return torch.device("cuda" if request.param == "cuda" else "cpu")


def _let_loops_end(monkeypatch):
    """Triton 3.6's interpreter makes loop bounds of arrays with one element in a way that NumPy 2.4 refuses."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_with_index(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_with_index)


@pytest.fixture(params=DTYPES)
def dtype(request, device):
    if request.param == "bfloat16" and device.type == "cpu":
        pytest.skip("Triton's interpreter computes with the bits of bfloat16 as if they were integers")
    return DTYPES[request.param]


def _dequantized(weight, bits):
    """What the kernels multiply by: 8 bits scale the sum, not the weight; 4 bits have scales in the weight's dtype."""
    if bits == 4:
        quantized, scale = quantize_int4(weight)
        centred = (quantized.to(weight.dtype) - 8).view(*scale.shape, -1)
        return (centred * scale.to(weight.dtype)[:, :, None]).flatten(1)[:, : weight.shape[1]]
    return fake_quantize(weight.float(), bits)


def _product(weight, bits, bias=None):
    from autodraft.runtime.triton_linear import TritonLinears

    return TritonLinears().pack(weight, bits, bias)


def _random(shape, dtype, device, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_product_is_that_of_the_dequantized_weights(device, bits, shape, dtype):
    weight = _random(shape, dtype, device)
    bias = _random(shape[:1], torch.float32, device, seed=1)
    x = _random((40, shape[1]), dtype, device, seed=2)
    rounded = _dequantized(weight, bits)
    expected = x.double() @ rounded.double().T + bias
    linear = _product(weight, bits, bias)
    for rows in SHAPES[shape]:
        y = linear(x[:rows])
        assert y.shape == (rows, shape[0]) and y.dtype == torch.float32
        assert (y - expected[:rows]).abs().max() < 1e-4


@pytest.mark.parametrize("bits", BITS)
def test_every_weight_meets_its_own_input(device, bits, dtype):
    """One input at a time, without a bias: the weights themselves come out."""
    weight = _random((33, 70), dtype, device)
    rounded = _dequantized(weight, bits)
    assert torch.equal(_product(weight, bits)(torch.eye(70, device=device)), rounded.float().T)


@pytest.mark.parametrize("bits", BITS)
def test_a_row_is_the_same_to_the_bit_in_every_call(device, bits, dtype):
    linear = _product(_random((20, 272), dtype, device), bits)
    x = _random((20, 272), dtype, device, seed=1)
    together = linear(x)
    for rows in (1, 2, 9, 16):
        assert torch.equal(linear(x[20 - rows :]), together[20 - rows :])


def _runtime(model, device, kind):
    spec, model = ModelSpec.from_config(model.config), model.to(device)
    weights = TargetWeights.from_hf(model, spec)
    backend = TorchBackend(spec, weights, model.dtype, device, kind)
    return TransformerRuntime(spec, backend, dtype=model.dtype, device=device, max_length=512)


def _mixed_policy():
    return DraftPolicy.from_sub_layers(
        [
            *(ChannelShares(full=8, four=8), ChannelShares(full=3, eight=6, four=5)),
            *(ChannelShares(eight=16), ChannelShares(four=9)),
            *(ChannelShares(), ChannelShares(full=16)),
        ],
        head_bits=8,
    )


@pytest.mark.parametrize(
    ("family", "policy"),
    [("llama", _mixed_policy()), ("qwen2", DraftPolicy.uniform(3, 8)), ("opt", DraftPolicy.uniform(3, 4))],
    ids=["mixed", "8 bits", "4 bits"],
)
def test_a_model_is_that_of_simulated_bits(device, family, policy):
    from autodraft.runtime.triton_linear import TritonLinears

    packed = _runtime(tiny_model(family), device, TritonLinears())
    simulated = _runtime(tiny_model(family), device, SimulatedLinears())
    assert packed.available_bits == (16, 8, 4)
    ours, theirs = (
        runtime.forward(runtime.plan(policy), runtime.new_cache(64), Rows.chain(TOKENS, 0))
        for runtime in (packed, simulated)
    )
    assert (ours - theirs).abs().max() < 1e-3


def test_verification_is_single_stepping_to_the_bit(device, dtype):
    from autodraft.runtime.triton_linear import TritonLinears

    runtime = _runtime(tiny_model("llama").to(dtype), device, TritonLinears())
    cache = runtime.new_cache(64)
    together = runtime.forward(runtime.target, cache, Rows.chain(TOKENS, 0))
    for position, token in enumerate(TOKENS[:3]):
        alone = runtime.forward(runtime.target, cache, Rows.chain([token], position))[0]
        cache.commit([position])
        assert torch.equal(alone, together[position])


def test_a_cpu_gets_simulated_bits_without_a_word(caplog):
    with caplog.at_level(logging.WARNING):
        assert linears_for(torch.device("cpu")).available_bits == (16,)
    assert not caplog.records


def test_a_cuda_device_without_triton_is_told_so(caplog, monkeypatch):
    monkeypatch.setattr(linears, "find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert linears_for(torch.device("cuda")).available_bits == (16,)
    assert "Triton is not installed: 8 and 4 bits are simulated here" in caplog.text
