"""`share_out`: calls of the compiled engine that each do a part of something. Knows nothing of what they do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


def share_out(number: int, run: Callable[[int, int, int], object]) -> None:
    """Call `run(first, last, thread)` for shares of so many things, at once on as many threads as PyTorch has.

    Calls of the engine let other threads of Python run.
    """
    threads = torch.get_num_threads()
    bounds = [number * thread // threads for thread in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, bounds[:-1], bounds[1:], range(threads)))
