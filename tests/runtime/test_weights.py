"""Weights that are run as one matrix and lie side by side are not copied."""

import torch

from autodraft.policy import DraftPolicy
from autodraft.runtime.hf_weights import put_side_by_side, read_weights
from autodraft.runtime.plan import SegmentSource
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.weights import joined
from tests.runtime.tiny import tiny_model


def test_maps_side_by_side_are_one_matrix_without_a_copy():
    modules = [torch.nn.Linear(3, outputs, bias=False) for outputs in (4, 2, 2)]
    expected = torch.cat([module.weight.detach() for module in modules])
    put_side_by_side(*modules)
    weights = [module.weight.detach() for module in modules]
    whole = joined(weights)
    assert torch.equal(whole, expected) and whole.data_ptr() == weights[0].data_ptr()
    assert torch.equal(joined(weights[1:]), expected[4:])
    turned = joined(weights[::-1])
    assert torch.equal(turned, torch.cat(weights[::-1])) and turned.data_ptr() != weights[-1].data_ptr()


def test_a_targets_segments_are_its_own_memory():
    model = tiny_model("qwen3")
    spec = ModelSpec.from_config(model.config)
    ids = torch.tensor([[5, 9, 33, 2]])
    logits = model(ids).logits
    for layer in model.model.layers:
        put_side_by_side(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
        put_side_by_side(layer.mlp.gate_proj, layer.mlp.up_proj)
    assert torch.equal(model(ids).logits, logits)
    source = SegmentSource(spec, read_weights(model, spec))
    for segment in source.segments_of(DraftPolicy.uniform(spec.num_blocks)):
        layer, inputs = model.model.layers[segment.block], source.weights_of(segment).inputs
        first = layer.self_attn.q_proj if segment.kind == "attention" else layer.mlp.gate_proj
        assert inputs.data_ptr() == first.weight.data_ptr() and len(inputs) > len(first.weight)
