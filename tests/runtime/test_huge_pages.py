"""Memory in huge pages: the same numbers, nobody else's, for as long as somebody looks at them."""

import gc

import torch
from hypothesis import given
from hypothesis import strategies as st

from autodraft.runtime.huge_pages import HugePages

_DTYPES = (torch.float32, torch.bfloat16, torch.int8, torch.uint8, torch.int32)


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 70), st.sampled_from(_DTYPES)), max_size=12))
def test_tensors_keep_their_numbers_whatever_is_moved_after_them(shapes):
    pages = HugePages()
    originals = [torch.randint(0, 100, (rows, columns)).to(dtype) for rows, columns, dtype in shapes]
    moved = [pages.moved(tensor) for tensor in originals]
    for tensor, original in zip(moved, originals, strict=True):
        assert tensor.dtype == original.dtype and torch.equal(tensor, original)
        assert tensor.data_ptr() % 64 == 0 or not tensor.numel()
        assert tensor.data_ptr() != original.data_ptr() or not tensor.numel()


def test_a_tensor_outlives_the_pages_and_a_large_one_gets_a_chunk_of_its_own():
    pages = HugePages()
    small, large = torch.arange(10), torch.arange(40 << 20, dtype=torch.uint8)
    moved = [pages.moved(small), pages.moved(large), pages.moved(small)]
    del pages
    gc.collect()
    for tensor, original in zip(moved, (small, large, small), strict=True):
        assert torch.equal(tensor, original)
