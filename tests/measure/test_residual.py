"""The residual profile against Hugging Face's own hidden states, and its statistics on made-up ratios."""

import pytest
import torch

from autodraft.measure.agreement import AgreementMeter
from autodraft.measure.residual import residual_profile, residual_ratios
from autodraft.runtime import build_runtime
from tests.runtime.tiny import tiny_model

PROMPTS = [[5, 9, 33, 2], [71, 12, 40]]


@pytest.fixture(scope="module", autouse=True)
def tiny_models(one_thread):
    """All tests here run on one thread."""


@torch.no_grad()
def test_ratios_are_those_of_the_hugging_face_model():
    model = tiny_model("llama")
    meter = AgreementMeter(build_runtime(model), PROMPTS, 8)
    branches: dict[int, torch.Tensor] = {}
    inputs: dict[int, torch.Tensor] = {}
    for number, layer in enumerate(model.model.layers):
        for kind, module, norm in (
            (0, layer.self_attn.o_proj, layer.input_layernorm),
            (1, layer.mlp.down_proj, layer.post_attention_layernorm),
        ):
            index = 2 * number + kind
            module.register_forward_hook(lambda _, __, out, index=index: branches.__setitem__(index, out[0]))
            norm.register_forward_hook(lambda _, args, __, index=index: inputs.__setitem__(index, args[0][0]))
    expected = []
    for sequence in meter.sequences:
        model(torch.tensor([sequence.tokens]))
        positions = slice(sequence.prompt_length - 1, sequence.prompt_length + 3)  # the first window of four
        expected.append(
            torch.stack(
                [
                    branches[i][positions].norm(dim=-1) / (inputs[i] + branches[i])[positions].norm(dim=-1)
                    for i in range(6)
                ]
            )
        )
    found = residual_ratios(meter)
    windows_per_sequence = found.shape[1] // 4 // len(meter.sequences)
    for number, ratios in enumerate(expected):
        first = 4 * number * windows_per_sequence
        assert torch.allclose(found[:, first : first + 4], ratios, atol=1e-4)


def test_quartiles_and_trends_of_known_ratios():
    tokens = torch.linspace(0.0, 1.0, 101)
    falling = torch.stack([tokens / (block + 1) for block in range(4)])
    ratios = torch.stack((falling, falling.flip(0)), dim=1).flatten(0, 1)  # attention falls with depth, MLP rises
    profile = residual_profile(ratios)
    assert profile.num_tokens == 101
    assert profile.trend == pytest.approx({"attention": -1.0, "mlp": 1.0})
    first, last = profile.contributions[0], profile.contributions[-1]
    assert (first.block, first.kind, last.block, last.kind) == (0, "attention", 3, "mlp")
    for part in (first, last):
        assert (part.low, part.median, part.high, part.ninth_decile) == pytest.approx((0.25, 0.5, 0.75, 0.9))
