"""16-bit weights in 12 bits: every one comes back to the bit, whatever it is, and models compute what they computed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autodraft.policy import DraftPolicy
from autodraft.runtime import Rows, native_packing
from autodraft.runtime import native_binding as binding
from autodraft.runtime.coded_weights import CodedWeights
from autodraft.runtime.cpu_cache import last_level_cache_bytes
from autodraft.runtime.native_linears import pack
from tests.runtime.instruction_sets import INSTRUCTION_SETS, build_on, engine
from tests.runtime.tiny import tiny_model

TOKENS = [5, 17, 3, 80, 44, 17, 3, 61, 9, 30]


def _read(coded):
    """The matrix, weight by weight as the layout says. int16 [panels, inputs / 2, 16, 2]"""
    panels, groups = int(coded.lists[0]), coded.groups.shape[1]  # the first list begins behind all beginnings
    words = torch.empty((panels, 4 * groups, 16, 2), dtype=torch.int32)
    kept = 0
    for panel in range(panels):
        stop = int(coded.lists[panel])
        for group in range(groups):
            held = coded.groups[panel // 2, group, panel % 2].tolist()
            for place in range(128):
                half, lane, pair, weight = place // 64, place // 16 % 4, place // 8 % 2, place % 8
                code = held[128 + place % 64] >> 4 * half & 15
                word = int(coded.uppers[code]) << 8 | held[place]
                words[panel, 4 * group + 2 * half + pair, 4 * lane + weight // 2, weight % 2] = word
            if int(coded.lists[stop]) == group:
                words[panel, 4 * group : 4 * group + 4] = (
                    coded.plain[kept].view(torch.int16).view(4, 16, 2).int() & 0xFFFF
                )
                kept, stop = kept + 1, stop + 1
        assert int(coded.lists[stop]) >= groups  # every list has its end
    assert kept == len(coded.plain)
    return words


def _trained(panels, inputs, seed, strange=0):
    """Panels of weights as training leaves them, `strange` of which are any 16 bits."""
    generator = torch.Generator().manual_seed(seed)
    weights = (torch.randn(panels, inputs // 2, 16, 2, generator=generator) * 0.05).bfloat16()
    flat = weights.view(torch.int16).flatten()
    places = torch.randint(len(flat), (strange,), generator=generator)
    flat[places] = torch.randint(-(2**15), 2**15, (strange,), generator=generator).to(torch.int16)
    return weights


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.sampled_from((32, 96)), st.integers(0, 2**31), st.integers(0, 3))
def test_every_weight_comes_back_to_the_bit(panels, inputs, seed, strange):
    weights = _trained(panels, inputs, seed, strange)
    coded = CodedWeights.of(weights)
    if coded is not None:
        assert torch.equal(_read(coded), weights.view(torch.int16).int() & 0xFFFF)


@pytest.mark.parametrize("threads", [1, 3, 40])
def test_every_number_of_threads_codes_alike(threads):
    weights, before = _trained(15, 128, 1, strange=3), torch.get_num_threads()
    expected = CodedWeights.of(weights)
    torch.set_num_threads(threads)
    try:
        found = CodedWeights.of(weights)
    finally:
        torch.set_num_threads(before)
    for name in ("groups", "uppers", "plain", "lists"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert len(found.plain)


def test_a_quarter_is_saved_and_what_would_save_less_is_left_alone():
    weights = _trained(64, 256, 2)
    coded = CodedWeights.of(weights)
    size = sum(each.numel() * each.element_size() for each in (coded.groups, coded.uppers, coded.plain, coded.lists))
    assert size < 0.79 * 2 * weights.numel()
    noise = torch.randint(-(2**15), 2**15, weights.shape, generator=torch.Generator().manual_seed(0)).to(torch.int16)
    assert CodedWeights.of(noise.view(torch.bfloat16)) is None
    assert pack(torch.zeros(16, 32), binding.KIND_CODED).struct.kind == binding.KIND_CODED  # as good as any


@pytest.fixture(scope="module", params=INSTRUCTION_SETS)
def reading(request):
    """The name of an instruction set whose engine reads codes."""
    if not engine(request.param).reads_codes():
        pytest.skip("this engine does not read codes")
    return request.param


@pytest.mark.parametrize("family", ["llama-head-dim", "qwen2", "opt"])
def test_a_model_computes_the_same_bits_either_way(reading, family):
    passes = []
    for coded in (True, False):
        runtime = build_on(reading, tiny_model(family).bfloat16(), max_length=64, coded=coded)
        kinds = {linear.struct.kind for linear in runtime.target.payload.linears}
        assert kinds == {binding.KIND_CODED if coded else binding.KIND_BF16}
        plans = (runtime.target, runtime.plan(DraftPolicy.uniform(3, 16, 8)))
        passes.append([runtime.forward(plan, runtime.new_cache(), Rows.chain(TOKENS, 0)) for plan in plans])
    for found, expected in zip(*passes, strict=True):
        assert torch.equal(found, expected)


def test_a_target_is_coded_unless_a_cache_holds_it_and_decoding_costs_time(reading, monkeypatch):
    model = tiny_model("llama").bfloat16()
    linears = {}
    for cache_bytes in (2**40, 0):
        monkeypatch.setattr(native_packing, "last_level_cache_bytes", lambda size=cache_bytes: size)
        linears[cache_bytes] = build_on(reading, model, max_length=64).target.payload.linears
    at_once = bool(engine(reading).reads_codes_at_once())
    assert {linear.struct.kind for linear in linears[0]} == {binding.KIND_CODED}
    assert {linear.struct.kind for linear in linears[2**40]} == {binding.KIND_CODED if at_once else binding.KIND_BF16}
    assert not any(linear.struct.cached for linear in linears[0])
    assert all(linear.struct.cached == at_once for linear in linears[2**40])


def test_the_largest_cache_counts_and_without_any_a_usual_size(tmp_path):
    for index, size in enumerate(("48K", "1024K", "32M", "oddly")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert last_level_cache_bytes(tmp_path) == 32 * 2**20
    assert last_level_cache_bytes(tmp_path / "nothing") == 32 * 2**20
    assert last_level_cache_bytes() >= 2**16
