"""`share_out`: calls of the compiled engine that each do a part of something. Knows nothing of what they do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def share_out(number: int, run: Callable[[int, int, int], object]) -> None:
    """Call `run(first, last, thread)` for shares of so many things, at once on as many threads as PyTorch has.

    Calls of the engine let other threads of Python run. Whoever calls takes the first share.
    """
    threads = torch.get_num_threads()
    bounds = [number * thread // threads for thread in range(threads + 1)]
    others = [_pool(threads).submit(run, bounds[thread], bounds[thread + 1], thread) for thread in range(1, threads)]
    run(bounds[0], bounds[1], 0)
    for other in others:
        other.result()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Kept, for threads take longer to make than small matrices to pack."""
    return ThreadPoolExecutor(threads)
