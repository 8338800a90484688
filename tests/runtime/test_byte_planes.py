"""Float16 weights in two planes: nothing is lost, the upper plane is E4M3, and a draft on it takes no memory."""

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from autodraft.configuration import SearchJob
from autodraft.errors import InputError
from autodraft.measure.latency import measure_latency
from autodraft.policies.features import PolicyFeatures
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.runtime import Rows, build_runtime, load_model
from autodraft.runtime.byte_planes import LARGEST, BytePlanes
from autodraft.runtime.hf_weights import read_weights
from autodraft.runtime.spec import ModelSpec
from autodraft.search.calibration import features_of
from tests.runtime.test_loading import save_with_tokenizer
from tests.runtime.tiny import tiny_model
from tests.runtime.triton_device import device, runtime_of  # noqa: F401 - the fixture

TOKENS = torch.randint(0, 97, (7,), generator=torch.Generator().manual_seed(3)).tolist()
BACKENDS = ("native", "torch")
EIGHT = DraftPolicy.uniform(3, 8, 16)


def _all_float16() -> torch.Tensor:
    """Every float16 number that may have planes, both zeros included. [2, n]"""
    bits = torch.arange(0, int(torch.tensor(LARGEST).half().view(torch.int16)) + 1, dtype=torch.int16)
    magnitudes = bits.view(torch.float16)
    return torch.stack([magnitudes, -magnitudes])


def _half(name: str):
    """A tiny model whose float32 weights are float16 numbers."""
    return tiny_model(name).half().float()


def _logits(runtime, policy):
    return runtime.forward(runtime.plan(policy), runtime.new_cache(), Rows.chain(TOKENS, 0))


def _with_upper_planes(model):
    """The model whose sub-layers have the upper planes as weights."""
    model = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)) and name != "lm_head":
            planes = BytePlanes.of(module.weight.data)
            assert planes is not None
            module.weight.data = planes.upper_values
    return model


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_every_number_comes_back_to_the_bit(dtype):
    weight = _all_float16().to(dtype)
    planes = BytePlanes.of(weight)
    assert planes is not None and planes.upper.dtype == planes.lower.dtype == torch.int8
    joined = planes.joined()
    assert joined.dtype == dtype and torch.equal(joined.half().view(torch.int16), weight.half().view(torch.int16))


def test_the_upper_plane_is_the_nearest_e4m3_number():
    weight = _all_float16()
    planes = BytePlanes.of(weight)
    assert planes is not None
    as_e4m3 = planes.upper.view(torch.float8_e4m3fn).float() / 256
    assert torch.equal(planes.upper_values.float(), as_e4m3)
    all_e4m3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double() / 256
    numbers = all_e4m3[all_e4m3.isfinite()]
    nearest = (weight.double().flatten()[:, None] - numbers).abs().amin(1)
    assert torch.equal((planes.upper_values.double() - weight.double()).abs().flatten(), nearest)


@pytest.mark.parametrize("weight", [1.7510, -2.0, 1e-3, float("inf")])
def test_other_numbers_have_no_planes(weight):
    """Beyond the largest one, or no float16 number."""
    assert BytePlanes.of(torch.tensor([[0.5, weight]])) is None


@pytest.mark.parametrize("family", ["llama", "llama-bias", "qwen3", "phi3", "opt", "gpt2"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_target_is_the_same_to_the_bit_and_8_bits_are_its_upper_plane(backend, family):
    model = _half(family)
    plain, rounded = build_runtime(model, backend=backend), build_runtime(_with_upper_planes(model), backend=backend)
    expected, upper = (_logits(runtime, DraftPolicy.uniform(3)) for runtime in (plain, rounded))
    runtime = build_runtime(model, backend=backend, byte_planes=True)
    assert runtime.weights.plane_sub_layers == set(range(6))
    assert torch.equal(_logits(runtime, DraftPolicy.uniform(3)), expected)
    assert torch.equal(_logits(runtime, EIGHT), upper) and not torch.equal(upper, expected)
    four = DraftPolicy.uniform(3, 4)
    assert torch.equal(_logits(runtime, four), _logits(plain, four))


@pytest.mark.parametrize("backend", BACKENDS)
def test_whole_sub_layers_at_8_bits_take_no_memory_and_parts_of_them_do(backend):
    plain = build_runtime(_half("llama"), backend=backend)
    runtime = build_runtime(_half("llama"), backend=backend, byte_planes=True)
    assert plain.plan(EIGHT).extra_bytes > 0 == runtime.plan(EIGHT).extra_bytes
    assert runtime.plan(EIGHT).weight_bytes == plain.plan(EIGHT).weight_bytes
    for change in ({1: ChannelShares(full=8, eight=8)}, {2: ChannelShares(four=16)}):
        mixed = EIGHT.replace(change)
        other = plain.plan(DraftPolicy.uniform(3).replace(change))
        assert runtime.plan(mixed).extra_bytes == other.extra_bytes > 0
    partial = DraftPolicy.uniform(3).replace({1: ChannelShares(full=8, eight=8)})
    assert torch.equal(_logits(runtime, partial), _logits(plain, partial))


def test_what_controllers_are_told_of_memory_is_what_plans_add():
    runtime = build_runtime(_half("llama"), byte_planes=True)
    latency, losses = measure_latency(runtime, seconds=0.1), {bits: [0.0] * 6 for bits in (0, 8, 4)}
    features = features_of(runtime, latency, (16, 8, 4), [0.0] * 6, losses, {})
    assert PolicyFeatures.from_json(features.to_json()) == features
    for policy in (EIGHT, DraftPolicy.uniform(3, 4), EIGHT.replace({1: ChannelShares(full=8, eight=8)})):
        assert features.extra_bytes(policy) == pytest.approx(runtime.plan(policy).extra_bytes, rel=0.01)


def test_native_memory_is_shared():
    runtime = build_runtime(_half("llama"), backend="native", byte_planes=True)
    plans = [runtime.plan(policy) for policy in (DraftPolicy.uniform(3), EIGHT)]
    places = [[block.mlp[0].output.weight for block in plan.payload.struct.blocks[:3]] for plan in plans]
    assert places[0] == places[1] and len(set(places[0])) == 3


def test_a_model_leaves_its_matrices_in_planes_and_nowhere_else():
    model = _half("qwen3")
    weights = read_weights(model, ModelSpec.from_config(model.config), byte_planes=True)
    assert all(module.weight.numel() == 0 for module in model.model.layers.modules() if isinstance(module, nn.Linear))
    query, key = weights.blocks[1].query.matrix, weights.blocks[1].key.matrix
    assert isinstance(query, BytePlanes) and isinstance(key, BytePlanes)
    assert key.upper.data_ptr() == query.upper.data_ptr() + query.upper.numel()  # run as one matrix without a copy


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sub_layer_with_large_weights_stays_as_it_is(backend):
    model = _half("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] = 2.0
    plain = build_runtime(copy.deepcopy(model), backend=backend)
    runtime = build_runtime(model, backend=backend, byte_planes=True)
    assert runtime.weights.plane_sub_layers == set(range(6)) - {3}
    assert torch.equal(_logits(runtime, DraftPolicy.uniform(3)), _logits(plain, DraftPolicy.uniform(3)))
    only = DraftPolicy.uniform(3).replace({3: ChannelShares(eight=16)})
    assert runtime.plan(EIGHT).extra_bytes == plain.plan(only).extra_bytes > 0
    assert torch.equal(_logits(runtime, only), _logits(plain, only))


def test_kernels_for_cuda_read_planes(device):  # noqa: F811
    from autodraft.runtime.triton_linear import TritonLinears

    model = tiny_model("llama").half()
    upper = _logits(runtime_of(_with_upper_planes(model), device, TritonLinears()), DraftPolicy.uniform(3))
    expected = _logits(runtime_of(copy.deepcopy(model), device, TritonLinears()), DraftPolicy.uniform(3))
    runtime = runtime_of(model, device, TritonLinears(), byte_planes=True)
    assert torch.equal(_logits(runtime, DraftPolicy.uniform(3)), expected)
    assert runtime.plan(EIGHT).extra_bytes == 0
    torch.testing.assert_close(_logits(runtime, EIGHT), upper, rtol=1e-3, atol=1e-3)  # other tiles


def test_loading_with_planes(tmp_path):
    half, brain, single = (
        save_with_tokenizer(tiny_model("llama").to(dtype), tmp_path / str(dtype))
        for dtype in (torch.float16, torch.bfloat16, torch.float32)
    )
    assert load_model(half, byte_planes=True).byte_planes and not load_model(half).byte_planes
    assert load_model(half, **SearchJob(device="cpu", byte_planes=True).loading).byte_planes
    assert load_model(brain, byte_planes=True, dtype="float16").runtime.backend == "native"
    with pytest.raises(InputError, match="add --dtype float16"):
        load_model(brain, byte_planes=True)
    with pytest.raises(InputError, match="no sub-layer has float16 weights"):
        load_model(single, byte_planes=True)
