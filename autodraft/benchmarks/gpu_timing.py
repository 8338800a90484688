"""Clocks for CUDA: what captured work takes, and how fast the device's memory and its matrix units are.

Knows nothing of what is timed. At a few microseconds per product, launches from Python would be all that one sees; so
work is captured as a CUDA graph, as decoding would run it, and the graph is timed by events.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch

_COPY_BYTES = 1 << 30
_MATRIX = 8192
_ROUNDS = 20


def captured_us(calls: Sequence[Callable[[], object]]) -> float:
    """Microseconds per call of one graph of all calls, one after the other: median over replays."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # whatever is compiled, tuned or allocated once must be so before the capture
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    return statistics.median(_event_us(graph.replay) for _ in range(_ROUNDS)) / len(calls)


def copy_bytes_per_s() -> float:
    """Bytes read and written per second by the device copying a buffer far larger than its caches; best of several."""
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * _COPY_BYTES / min(_event_us(lambda: target.copy_(source)) for _ in range(_ROUNDS)) * 1e6


def matmul_flop_per_s() -> float:
    """Floating-point operations per second of a product of large random bfloat16 matrices; best of several."""
    a, b = (torch.randn(_MATRIX, _MATRIX, device="cuda").bfloat16() for _ in range(2))
    product = torch.mm(a, b)
    return 2 * _MATRIX**3 / min(_event_us(lambda: torch.mm(a, b, out=product)) for _ in range(_ROUNDS)) * 1e6


def _event_us(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) * 1e3
