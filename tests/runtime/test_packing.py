"""Matrices in the engine's layouts: the numbers that quantization.py has, whatever processor packs them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autodraft.runtime import native_linears
from autodraft.runtime.native_binding import KIND_BF16, KIND_F16, KIND_F32, KIND_INT4, KIND_INT8
from autodraft.runtime.native_linears import pack
from autodraft.runtime.quantization import INT4_GROUP_SIZE, INT4_ZERO, quantize_int4, quantize_int8
from tests.runtime.instruction_sets import INSTRUCTION_SETS, engine

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KINDS = {KIND_F32: torch.float32, KIND_F16: torch.float16, KIND_BF16: torch.bfloat16}


def rows_of(panels):
    """[panels, some, 16, some] -> [outputs, inputs]"""
    return panels.transpose(1, 2).flatten(2).flatten(0, 1)


def check_padded(found, expected):
    outputs, inputs = expected.shape
    assert found.shape[0] == -(-outputs // 16) * 16
    assert torch.equal(found[:outputs, :inputs], expected)
    assert not found[outputs:].any() and not found[:, inputs:].any()


def weights(outputs, inputs, dtype, seed):
    """Some of them zeros, some as far from 0 as each other; one row of nothing else."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator) * 0.05
    weight[:, ::5] = weight[:, ::5].round(decimals=1)
    weight[outputs // 2] = 0
    return weight.to(dtype)


@pytest.fixture(scope="module", params=INSTRUCTION_SETS)
def _packs(request):
    """Matrices are packed by the engine of one instruction set."""
    library = engine(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_linears, "load_library", lambda: library)
        yield


@pytest.mark.usefixtures("_packs")
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 50), st.integers(1, 150), st.sampled_from(DTYPES), st.integers(0, 2**31))
def test_every_kind_holds_what_it_is_made_of(outputs, inputs, dtype, seed):
    weight = weights(outputs, inputs, dtype, seed)
    for kind, stored in KINDS.items():
        check_padded(rows_of(pack(weight, kind).tensors[0]), weight.to(stored))

    quantized, scale = quantize_int8(weight)
    packed, scales, sums = pack(weight, KIND_INT8).tensors
    found = rows_of(packed)
    check_padded(found, quantized)
    assert torch.equal(scales[:outputs], scale) and torch.equal(sums, 128 * found.sum(1, dtype=torch.int32))

    quantized, scale = quantize_int4(weight)
    packed, scales = pack(weight, KIND_INT4).tensors
    halves = torch.stack((packed & 15, packed >> 4), dim=3)  # [panels, inputs / 8, 16, 2, 4]
    found = halves.transpose(1, 2).flatten(2).flatten(0, 1).int() - INT4_ZERO
    assert not found[outputs:].any()
    of_found, of_expected = (
        (numbers[:outputs].int().unflatten(1, (-1, INT4_GROUP_SIZE)), each[:outputs].float())
        for numbers, each in ((found, rows_of(scales[..., None])), (quantized.int() - INT4_ZERO, scale))
    )
    same = (
        of_found[1] == of_expected[1]
    )  # of two scales that round as well as each other, sums decide by their last bits
    assert torch.equal(of_found[0][same], of_expected[0][same])
    padded = torch.nn.functional.pad(weight.float(), (0, -inputs % INT4_GROUP_SIZE)).unflatten(1, (-1, INT4_GROUP_SIZE))
    errors = [((numbers * each[..., None] - padded) ** 2).sum(2) for numbers, each in (of_found, of_expected)]
    assert torch.allclose(*errors, rtol=1e-4, atol=0)


@pytest.mark.parametrize("threads", [1, 3, 40])
def test_every_number_of_threads_packs_alike(threads):
    weight, before = weights(200, 96, torch.bfloat16, 3), torch.get_num_threads()
    expected = [pack(weight, kind).tensors for kind in (*KINDS, KIND_INT8, KIND_INT4)]
    torch.set_num_threads(threads)
    try:
        found = [pack(weight, kind).tensors for kind in (*KINDS, KIND_INT8, KIND_INT4)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(*pair) for each in zip(found, expected, strict=True) for pair in zip(*each, strict=True))
