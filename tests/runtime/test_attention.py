"""Attention of one head in the engine: against PyTorch, and to the bit wherever keys lie and whoever shares it."""

import ctypes

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autodraft.runtime import native_binding as binding
from autodraft.runtime.native_cache import NativeCache
from autodraft.runtime.spec import ModelSpec

KINDS = {torch.float32: binding.KIND_F32, torch.bfloat16: binding.KIND_BF16}
SCORE_MARGIN, TAIL_QUERIES, TAIL_MARGIN = 32, 16, 64
WIDTHS = (16, 32, 48, 64, 128, 272)  # with and without tiles and pairs, where the processor has them
CAPACITY = 256


class _Query(ctypes.Structure):
    """Mirror of `Query` in native/attention.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "scores", "out", "path")),
        *((name, ctypes.c_int32) for name in ("prefix", "num_path", "hidden")),
        ("cap", ctypes.c_float),
    )


def attend(library, queries, keys, values, where, start, dtype, cap):
    """What queries mix, each seeing its `where`: (hidden keys, prefix, path slots). Keys and values: [slots, dim]"""
    count, dim = queries.shape
    spec = ModelSpec("llama", 1, dim, dim, 1, 1, dim, 16, CAPACITY, "rms", 1e-6, "silu", True, True, False)
    cache = NativeCache(spec, CAPACITY, dtype)
    for slot in range(len(keys)):
        cache._key(slot).copy_(keys[slot].view(cache._key(slot).shape))
        cache._value(slot).copy_(values[slot].view(cache._value(slot).shape))
    queries, out = queries.contiguous(), torch.full((count, dim), float("nan"))
    scores = torch.full((count, CAPACITY + 2 * SCORE_MARGIN), float("nan"))
    tails = torch.zeros(TAIL_QUERIES * (CAPACITY + TAIL_MARGIN), dtype=torch.int16)
    paths = {id(path): torch.tensor(path, dtype=torch.int32) for _, _, path in where}  # heads of one row have one path
    structs = (_Query * count)(
        *(
            _Query(
                queries[i].data_ptr(),
                scores[i].data_ptr() + 4 * SCORE_MARGIN,
                out[i].data_ptr(),
                paths[id(path)].data_ptr(),
                prefix,
                len(path),
                hidden,
                cap,
            )
            for i, (hidden, prefix, path) in enumerate(where)
        )
    )
    library.attend(
        structs,
        count,
        ctypes.c_void_p(cache.keys.data_ptr()),
        ctypes.c_void_p(cache.values.data_ptr()),
        KINDS[dtype],
        dim,
        start,
        ctypes.c_void_p(tails.data_ptr()),
        CAPACITY + TAIL_MARGIN,
    )
    return out


def _case(data, dtype):
    """Queries, keys and values by slot, the common start, and what each query sees."""
    dim = data.draw(st.sampled_from(WIDTHS), label="width")
    start = data.draw(st.integers(0, 70), label="start")
    where = []
    heads = data.draw(st.integers(1, 3), label="queries of a row")
    for _ in range(data.draw(st.integers(1, 20 // heads), label="rows")):
        prefix = data.draw(st.integers(0, 80))
        gaps = data.draw(st.lists(st.sampled_from((1, 1, 2, 3, 7)), min_size=0 if prefix else 1, max_size=12))
        slots = [start + prefix - 1 + sum(gaps[: i + 1]) for i in range(len(gaps))]
        hidden = data.draw(st.sampled_from((0, 0, prefix // 3, prefix if slots else 0)))
        where += [(hidden, prefix, slots)] * heads
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000), label="seed"))
    keys, values = (torch.randn(CAPACITY, dim, generator=generator).to(dtype) for _ in range(2))
    # Of scores that lie far apart most weights are below every number of 32 bits.
    spread = data.draw(st.sampled_from((1, 1, 60)), label="spread")
    queries = (spread * torch.randn(len(where), dim, generator=generator)).to(dtype).float()
    return queries, keys, values, start, where, data.draw(st.sampled_from((0.0, 0.0, 2.0)), label="cap")


def _slots(start, hidden, prefix, path):
    return [*range(start + hidden, start + prefix), *path]


@pytest.mark.parametrize("dtype", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_attention_is_that_of_pytorch(library, dtype, data):
    queries, keys, values, start, where, cap = _case(data, dtype)
    found = attend(library, queries, keys, values, where, start, dtype, cap)
    for query, seeing, mixed in zip(queries, where, found, strict=True):
        seen = _slots(start, *seeing)
        scores = keys[seen].double() @ query.double() / len(query) ** 0.5
        scores = cap * torch.tanh(scores / cap) if cap else scores
        expected = scores.softmax(0) @ values[seen].double()
        tolerance = 3e-2 if dtype == torch.bfloat16 else 1e-4 if query.abs().max() > 20 else 1e-5
        torch.testing.assert_close(mixed.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_query_gives_the_same_bits_alone_and_in_line(library, dtype, data):
    """Alone: from its own first key on. In line: with its scattered keys moved to the slots that follow its prefix."""
    queries, keys, values, start, where, cap = _case(data, dtype)
    together = attend(library, queries, keys, values, where, start, dtype, cap)
    for i, (hidden, prefix, path) in enumerate(where):
        own, first = queries[i : i + 1], start + hidden
        alone = attend(library, own, keys, values, [(0, prefix - hidden, path)], first, dtype, cap)
        assert torch.equal(alone[0], together[i])
        seen = _slots(start, hidden, prefix, path)
        moved_keys, moved_values = keys.clone(), values.clone()
        moved_keys[first : first + len(seen)], moved_values[first : first + len(seen)] = keys[seen], values[seen]
        in_line = attend(library, own, moved_keys, moved_values, [(0, len(seen), [])], first, dtype, cap)
        assert torch.equal(in_line[0], together[i])
