"""The low-bit products for CUDA: against plain PyTorch, and row by row to the bit."""

import logging

import pytest
import torch

from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.runtime import Rows, linears
from autodraft.runtime.linears import SimulatedLinears, linears_for
from autodraft.runtime.quantization import fake_quantize, quantize_int4
from tests.runtime.tiny import tiny_model
from tests.runtime.triton_device import device, dtype, runtime_of  # noqa: F401 - the fixtures

BITS = (16, 8, 4)
# Whole tiles; remainders; inputs that are no multiple of 8 either.
SHAPES = {(32, 256): (1, 17), (33, 80): (1, 16), (20, 70): (*range(1, 17), 33), (12, 1100): (1,)}
TOKENS = torch.randint(0, 97, (6,), generator=torch.Generator().manual_seed(3)).tolist()


def _dequantized(weight, bits, alone=False):
    """What the kernels multiply by: 8 bits scale the sum, not the weight; 4 bits have scales in the weight's dtype.

    On tensor cores so is the weight; that of a single row is not rounded.
    """
    if bits == 4:
        quantized, scale = quantize_int4(weight)
        kind = torch.float32 if alone else weight.dtype
        centred = (quantized.to(kind) - 8).view(*scale.shape, -1)
        return (centred * scale.to(weight.dtype).to(kind)[:, :, None]).flatten(1)[:, : weight.shape[1]]
    return fake_quantize(weight.float(), bits)


def _rounded(x):
    """Inputs as a single row of low bits takes them: 8 bits, a scale per 32."""
    groups = torch.nn.functional.pad(x.float(), (0, -x.shape[1] % 32)).view(len(x), -1, 32)
    largest = groups.abs().amax(2, keepdim=True).clamp_min(1e-30)
    return (torch.round(groups * (127 / largest)).double() * (largest / 127)).flatten(1)[:, : x.shape[1]]


def _product(weight, bits, bias=None):
    from autodraft.runtime.triton_linear import TritonLinears

    return TritonLinears().pack(weight, bits, bias)


def _random(shape, dtype, device, seed=0):  # noqa: F811
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_product_is_that_of_the_dequantized_weights(device, bits, shape, dtype):  # noqa: F811
    weight = _random(shape, dtype, device)
    bias = _random(shape[:1], torch.float32, device, seed=1)
    x = _random((40, shape[1]), dtype, device, seed=2)
    linear = _product(weight, bits, bias)
    for rows in SHAPES[shape]:
        alone = rows == 1 and bits < 16 and linear.row_tile is not None
        inputs = _rounded(x[:1]) if alone else x[:rows].double()
        expected = inputs @ _dequantized(weight, bits, alone).double().T + bias
        y = linear(x[:rows])
        assert y.shape == (rows, shape[0]) and y.dtype == torch.float32
        assert (y - expected).abs().max() < 1e-4
        before = _random(y.shape, torch.float32, device, seed=3)
        torch.testing.assert_close(linear(x[:rows], into=before.clone()), before + y)


@pytest.mark.parametrize("bits", BITS)
def test_every_weight_meets_its_own_input(device, bits, dtype):  # noqa: F811
    """One input at a time, without a bias: the weights themselves come out."""
    weight = _random((33, 70), dtype, device)
    linear, inputs = _product(weight, bits), torch.eye(70, device=device)
    assert torch.equal(linear(inputs), _dequantized(weight, bits).float().T)
    alone = torch.cat([linear(inputs[number : number + 1]) for number in range(70)])
    torch.testing.assert_close(alone, _dequantized(weight, bits, alone=True).float().T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bits", BITS)
def test_a_row_is_the_same_to_the_bit_in_every_call(device, bits, dtype):  # noqa: F811
    linear = _product(_random((20, 272), dtype, device), bits)
    x = _random((20, 272), dtype, device, seed=1)
    together = linear(x)
    for rows in (1, 2, 9, 16):
        if rows > 1 or bits == 16:  # a draft's single rows have a kernel of their own
            assert torch.equal(linear(x[20 - rows :]), together[20 - rows :])


@pytest.mark.parametrize("bits", BITS)
def test_a_given_tile_serves_single_rows_too(device, bits):  # noqa: F811
    from autodraft.runtime.triton_linear import Tile, TritonLinears

    tile = Tile(16, 128 if bits == 4 else 64, 1, 2)
    linear = TritonLinears().pack(_random((20, 272), torch.float32, device), bits, tile=tile)
    x = _random((16, 272), torch.float32, device, seed=1)
    assert torch.equal(linear(x[:1]), linear(x)[:1])


def test_programs_of_few_outputs_fetch_more_at_once(device):  # noqa: F811
    from autodraft.runtime.triton_linear import full_tile

    depths = [tile.inputs * (tile.stages - 1) for tile in (full_tile(outputs, 132) for outputs in (4096, 6144, 28672))]
    assert depths == sorted(depths, reverse=True) and len(set(depths)) == 3


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
def test_a_model_is_that_of_simulated_bits(device, family, policy):  # noqa: F811
    from autodraft.runtime.triton_linear import TritonLinears

    packed = runtime_of(tiny_model(family), device, TritonLinears())
    simulated = runtime_of(tiny_model(family), device, SimulatedLinears())
    assert packed.available_bits == (16, 8, 4)
    ours, theirs = (
        runtime.forward(runtime.plan(policy), runtime.new_cache(64), Rows.chain(TOKENS, 0))
        for runtime in (packed, simulated)
    )
    assert (ours - theirs).abs().max() < 1e-3


def test_verification_is_single_stepping_to_the_bit(device, dtype):  # noqa: F811
    from autodraft.runtime.triton_linear import TritonLinears

    runtime = runtime_of(tiny_model("llama").to(dtype), device, TritonLinears())
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
