"""`--compare`: the decoder of a profile and autoregressive decoding in turns on one prompt.

Knows nothing of text. One prompt is an anecdote with a spread, not a measurement: `autodraft bench` measures.
"""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autodraft.decoding import CascadeDecoder, SamplingConfig

_ROUNDS = range(5, 16)
_ENOUGH_S = 3.0


def compare_with_autoregressive(
    decoder: CascadeDecoder, tokens: list[int], num_new_tokens: int, sampling: SamplingConfig, seed: int | None
) -> str:
    """Decode the same tokens in alternating rounds, the first one dropped: median ratio and range in one line."""
    from autodraft.decoding import CascadeDecoder

    autoregressive = CascadeDecoder(decoder.runtime)
    seed = 0 if seed is None else seed
    ratios: list[float] = []
    speeds: list[float] = []
    same, started = True, time.monotonic()
    while len(ratios) <= _ROUNDS.start or (time.monotonic() - started < _ENOUGH_S and len(ratios) < _ROUNDS.stop):
        plain, fast = (
            each.generate(tokens, max_new_tokens=num_new_tokens, sampling=sampling, seed=seed)
            for each in (autoregressive, decoder)
        )
        same = same and plain.tokens == fast.tokens
        speeds.append(plain.stats.tokens_per_s)
        ratios.append(fast.stats.tokens_per_s / plain.stats.tokens_per_s)
    kept = sorted(ratios[1:])
    outputs = "identical tokens" if same else "DIFFERENT tokens"
    return (
        f"speedup {median(kept):.2f}x over autoregressive at {median(speeds[1:]):.1f} tokens/s, measured on this "
        f"prompt alone ({kept[0]:.2f} to {kept[-1]:.2f} in {len(kept)} rounds; {outputs})"
    )
