"""What a policy does to the function: checked against Hugging Face models with the same surgery."""

import pytest
import torch

from autodraft.errors import PolicyError
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.runtime import Rows, build_runtime
from autodraft.runtime.hf_weights import read_weights
from autodraft.runtime.plan import Segment, SegmentSource
from autodraft.runtime.quantization import fake_quantize, quantize_int4, quantize_int8
from tests.runtime.tiny import tiny_model

BACKENDS = ["torch", "native"]
TOKENS = torch.randint(0, 97, (24,), generator=torch.Generator().manual_seed(3)).tolist()


def _hf_logits(model):
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0]


def _draft_logits(model, policy, backend):
    runtime = build_runtime(model, backend=backend)
    return runtime.forward(runtime.plan(policy), runtime.new_cache(), Rows.chain(TOKENS, 0))


def _zero_channels(model, block, kind, channels, group=2, head_dim=16):
    """Silence channels in place: zero the columns of the matrix that reads them."""
    layer = model.model.layers[block]
    with torch.no_grad():
        if kind == "mlp":
            layer.mlp.down_proj.weight[:, channels] = 0
        else:
            for head in channels.tolist():
                layer.self_attn.o_proj.weight[:, head * group * head_dim : (head + 1) * group * head_dim] = 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_skipped_block_is_the_model_without_it(backend):
    policy = DraftPolicy.uniform(3).replace({2: ChannelShares(), 3: ChannelShares()})
    pruned = tiny_model("llama")
    del pruned.model.layers[1]
    for index, layer in enumerate(pruned.model.layers):
        layer.self_attn.layer_idx = index
    pruned.config.num_hidden_layers = 2
    assert (_draft_logits(tiny_model("llama"), policy, backend) - _hf_logits(pruned)).abs().max() < 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "sub_layer"), [("mlp", 3), ("attention", 4)])
def test_dropped_channels_are_silent_channels(backend, kind, sub_layer):
    model = tiny_model("llama")
    shares = ChannelShares(full=8)
    policy = DraftPolicy.uniform(3).replace({sub_layer: shares})
    runtime = build_runtime(model, backend=backend)
    source = SegmentSource(runtime.spec, read_weights(model, runtime.spec))
    count = 112 if kind == "mlp" else 2
    dropped = source.channels(Segment(sub_layer // 2, kind, 16, count // 2, count))
    assert len(dropped) == count // 2
    logits = _draft_logits(model, policy, backend)
    _zero_channels(model, sub_layer // 2, kind, dropped)
    assert (logits - _hf_logits(model)).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["llama", "llama-bias", "qwen3", "gemma3", "opt"])
def test_the_segments_of_a_sub_layer_share_it_out(family):
    model = tiny_model(family)
    spec = build_runtime(model, backend="torch").spec
    source = SegmentSource(spec, read_weights(model, spec))
    whole = source.weights_of(Segment(0, "mlp", 16, 0, 112))
    parts = [source.weights_of(Segment(0, "mlp", 16, 0, 35)), source.weights_of(Segment(0, "mlp", 16, 35, 112))]
    assert sorted(torch.cat([part.channels for part in parts]).tolist()) == list(range(112))
    for part in parts:
        assert torch.equal(part.outputs, whole.outputs[:, part.channels])


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    "family",
    [
        *("llama", "llama-bias", "qwen3", "phi3", "smollm3", "granite", "stablelm", "starcoder2", "gemma2", "gemma3"),
        *("exaone4", "olmo2", "opt"),
    ],
)
def test_packed_low_bits_are_the_simulated_low_bits(bits, family):
    """The packed kernels also round activations to 8 bits: close, and much closer than the next precision."""
    model = tiny_model(family)
    policy = DraftPolicy.uniform(3, bits)
    simulated = _draft_logits(model, policy, "torch")
    packed = _draft_logits(model, policy, "native")
    full = _hf_logits(model)
    error = (packed - simulated).norm() / simulated.norm()
    assert error < 0.05
    if bits == 4:
        assert error < 0.5 * (simulated - full).norm() / full.norm()


@pytest.mark.parametrize("family", ["llama", "gemma3", "olmo2"])
def test_mixed_shares_run_on_both_backends(family):
    model = tiny_model(family)
    policy = DraftPolicy.from_sub_layers(
        [
            *(ChannelShares(full=8, four=8), ChannelShares(full=3, eight=6, four=5)),
            *(ChannelShares(eight=16), ChannelShares(four=9)),
            *(ChannelShares(), ChannelShares(full=16)),
        ],
        head_bits=8,
    )
    simulated, packed = (_draft_logits(model, policy, backend) for backend in BACKENDS)
    assert (packed - simulated).norm() / simulated.norm() < 0.05


def test_quantization_error_is_within_half_a_step():
    weight = torch.randn(48, 70, generator=torch.Generator().manual_seed(0))
    quantized, scale = quantize_int8(weight)
    assert ((quantized * scale[:, None] - weight).abs() <= scale[:, None] / 2 + 1e-6).all()
    nibbles, group_scale = quantize_int4(weight)
    assert nibbles.shape == (48, 96) and int(nibbles.max()) <= 15
    assert group_scale.shape == (48, 3)
    error = (fake_quantize(weight, 4) - weight).norm() / weight.norm()
    assert error < 0.12 and torch.equal(fake_quantize(weight, 16), weight)


def test_policies_that_do_not_fit_are_refused():
    runtime = build_runtime(tiny_model("llama"))
    with pytest.raises(PolicyError, match="has 4 blocks, the model has 3"):
        runtime.plan(DraftPolicy.uniform(4))
    with pytest.raises(PolicyError, match="no whole number of heads"):
        runtime.plan(DraftPolicy.uniform(3).replace({0: ChannelShares(full=3)}))


def test_plan_counts_its_bytes():
    runtime = build_runtime(tiny_model("llama"))
    target = runtime.target
    assert target.extra_bytes == 0
    per_block = 4 * (64 * 128 + 64 * 64 + 2 * 64 * 112 + 112 * 64)
    assert target.weight_bytes == 3 * per_block + 4 * 97 * 64
    eight = runtime.plan(DraftPolicy.uniform(3, 8))
    assert eight.extra_bytes == eight.weight_bytes < target.weight_bytes / 3
    skipped = runtime.plan(DraftPolicy.uniform(3).replace({0: ChannelShares(), 1: ChannelShares()}))
    assert skipped.extra_bytes == 0 and skipped.weight_bytes == target.weight_bytes - per_block
