"""The fused forward pass for CUDA: against the plain one, row by row to the bit, and over any number of keys."""

import pytest
import torch

from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.runtime import Rows
from autodraft.runtime.linears import SimulatedLinears
from tests.runtime.tiny import tiny_model
from tests.runtime.triton_device import device, dtype, runtime_of  # noqa: F401 - the fixtures

LENGTH = 300  # more than two splits of the keys
LONG = 4159  # the last split has eight tiles of keys, and new ones are in the first and in the second of them
TREE = Rows.tree([5, 9, 33, 2, 71], [-1, 0, 0, 1, 2], LENGTH)
PARTS = DraftPolicy.uniform(3).replace(
    {0: ChannelShares(full=8), 1: ChannelShares(full=11), 2: ChannelShares(), 4: ChannelShares(full=8, eight=8)}
)


def fused(model, device, **options):  # noqa: F811
    from autodraft.runtime.triton_linear import TritonLinears
    from autodraft.runtime.triton_pass import TritonPass

    runtime = runtime_of(model, device, TritonLinears(), **options)
    assert isinstance(runtime._backend._pass, TritonPass)
    return runtime


def filled(runtime, length=LENGTH):
    """A cache with random keys and values for `length` tokens."""
    cache, generator = runtime.new_cache(), torch.Generator().manual_seed(1)
    for tensor in (cache.keys, cache.values):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    cache.length = length
    return cache


@pytest.mark.parametrize(
    "family",
    [
        "llama",
        "llama-multi-head",
        "llama-bias",
        "qwen3",
        "phi4-mini",
        "smollm3",
        "granite",
        "nemotron",
        "starcoder2",
        "gemma",
        "gemma2",
        "gemma3",
        "exaone4",
        "olmo2",
        "glm4",
        "hunyuan",
        "nanochat",
        "olmo",
        "opt",
        "gpt2",
    ],
)
@pytest.mark.parametrize("policy", [DraftPolicy.uniform(3), PARTS], ids=["target", "parts"])
def test_a_tree_is_seen_as_in_the_plain_pass(device, family, policy):  # noqa: F811
    runtimes = fused(tiny_model(family), device), runtime_of(tiny_model(family), device, SimulatedLinears())
    caches = [filled(runtime) for runtime in runtimes]
    ours, theirs = (
        runtime.forward(runtime.plan(policy), cache, TREE) for runtime, cache in zip(runtimes, caches, strict=True)
    )
    assert (ours - theirs).abs().max() < (1e-2 if policy is PARTS else 1e-3)
    for mine, other in ((caches[0].keys, caches[1].keys), (caches[0].values, caches[1].values)):
        torch.testing.assert_close(mine[:, :, :LENGTH], other[:, :, :LENGTH], rtol=0, atol=0)
        written = slice(LENGTH, LENGTH + len(TREE))
        torch.testing.assert_close(mine[:, :, written], other[:, :, written], rtol=1e-3, atol=1e-2)


def test_a_row_of_the_target_is_the_same_to_the_bit_in_every_call(device, dtype):  # noqa: F811
    runtime = fused(tiny_model("llama").to(dtype), device)
    tokens = torch.randint(0, 97, (18,), generator=torch.Generator().manual_seed(3)).tolist()
    together = runtime.forward(runtime.target, filled(runtime), Rows.chain(tokens, LENGTH))
    cache, start = filled(runtime), 0
    for count in (1, 9, 8):
        rows = runtime.forward(runtime.target, cache, Rows.chain(tokens[start : start + count], cache.length))
        assert torch.equal(rows, together[start : start + count])
        cache.commit(range(cache.length, cache.length + count))
        start += count


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("length", [60, LENGTH])
def test_a_row_of_a_tree_is_the_same_to_the_bit_as_in_a_chain(device, dtype, family, length):  # noqa: F811
    """Also where a path goes over from one split of the keys to the next."""
    runtime, parents = fused(tiny_model(family).to(dtype), device), [-1, 0, 0, 1, 2, 2, 4, 3, 6, 8, 7]
    tokens = [5, 9, 33, 2, 71, 8, 14, 20, 3, 60, 41]
    tree = runtime.forward(runtime.target, filled(runtime, length), Rows.tree(tokens, parents, length))
    for leaf in (9, 10, 5):
        path, node = list[int](), leaf
        while node >= 0:
            path, node = [node, *path], parents[node]
        rows = Rows.chain([tokens[each] for each in path], length)
        chain = runtime.forward(runtime.target, filled(runtime, length), rows)
        assert torch.equal(tree[path], chain)


def test_keys_that_a_row_does_not_see_change_no_bit(device, dtype):  # noqa: F811
    """A step is made for more keys than a pass that is watched."""
    runtime, rows = fused(tiny_model("llama").to(dtype), device), Rows.chain([5, 6], 40)
    taps = torch.empty((2 * runtime.spec.num_blocks + 1, 2, runtime.spec.hidden_size), device=device)
    expected = runtime._backend.forward(runtime.target, filled(runtime, 40), rows, taps=taps)
    assert torch.equal(runtime.forward(runtime.target, filled(runtime, 40), rows), expected)


def test_splits_are_all_tiles_in_order(device):  # noqa: F811
    from autodraft.runtime.triton_attention import TILE, splits_of
    from tests.runtime.split_kernel import store_tiles

    found, size = torch.zeros((100, 2), dtype=torch.int32, device=device), TILE.value
    store_tiles[(100,)](found)
    splits = found.tolist()
    assert splits[0] == [0, 1] and splits[-1][1] == 8
    assert [first for first, _ in splits[1:]] == [first + tiles for first, tiles in splits[:-1]]
    for keys in (1, 64, 65, 1024, 1025, 2048, 2049, 4096, 4097, 4608, 4609, 32768):
        first, tiles = splits[splits_of(keys) - 1]
        assert first * size < keys <= (first + tiles) * size


def test_a_long_context_is_seen_as_in_the_plain_pass_and_by_every_row_to_the_bit(device, dtype):  # noqa: F811
    model = tiny_model("llama", num_hidden_layers=1, max_position_embeddings=8192).to(dtype)
    runtime = fused(model, device, max_length=4608)
    plain = runtime_of(model, device, SimulatedLinears(), max_length=4608)
    rows = Rows.tree([5, 9, 33], [-1, -1, 0], LONG)
    tree = runtime.forward(runtime.target, filled(runtime, LONG), rows)
    expected = plain.forward(plain.target, filled(plain, LONG), rows)
    assert (tree - expected).abs().max() < (1e-3 if dtype == torch.float32 else 0.1)
    cache = filled(runtime, LONG)
    for token, node in ((5, 0), (33, 2)):
        assert torch.equal(runtime.forward(runtime.target, cache, Rows.chain([token], cache.length))[0], tree[node])
        cache.commit([cache.length])


@pytest.mark.parametrize("family", ["llama", "mistral-window"])
@pytest.mark.parametrize("top", [1, 3])
@pytest.mark.parametrize("fed", [[5], [5, 6, 7]], ids=str)
def test_a_chain_is_one_step_after_the_other(device, fed, top, family):  # noqa: F811
    runtime = fused(tiny_model(family), device)
    plan = runtime.plan(PARTS)
    chain = runtime.draft_chain(plan, filled(runtime), fed, 6, top=top)
    cache, position = filled(runtime), LENGTH
    for found in chain:
        logits = runtime.forward(plan, cache, Rows.chain(fed, position))[-1]
        best = torch.topk(logits.softmax(-1), top)
        assert list(found.tokens) == best.indices.tolist()
        assert found.probs == pytest.approx(best.values.tolist(), abs=1e-4)
        position, fed = position + len(fed), found.tokens[:1]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", ["llama-head-dim", "opt"])
def test_a_single_row_of_low_bits_is_near_the_plain_pass(device, family, bits):  # noqa: F811
    """Its inputs are rounded to 8 bits as well, by whatever makes them."""
    policy, rows = DraftPolicy.uniform(3, bits), Rows.chain([5], LENGTH)
    runtimes = fused(tiny_model(family), device), runtime_of(tiny_model(family), device, SimulatedLinears())
    ours, theirs = (runtime.forward(runtime.plan(policy), filled(runtime), rows) for runtime in runtimes)
    assert (ours - theirs).norm() < 0.03 * theirs.norm()
