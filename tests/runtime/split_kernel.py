"""Where splits of the keys lie, as a kernel sees it. Importing this needs Triton."""

import triton
import triton.language as tl

from autodraft.runtime.triton_attention import tiles_of


@triton.jit
def store_tiles(to):  # [splits, 2] int32: the first tile, and how many there are
    split = tl.program_id(0)
    first, tiles = tiles_of(split)
    tl.store(to + 2 * split, first)
    tl.store(to + 2 * split + 1, tiles)
