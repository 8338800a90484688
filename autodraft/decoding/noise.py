"""`NoiseStream`: the Gumbel noise of a generation, one vector over the vocabulary per output position.

Knows nothing of logits, trees or drafts; whoever chooses a token for a position adds that position's vector to the
scores. Vectors are drawn in order of position, so they are the same for the same seed in whatever order they are asked
for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_BLOCK_ROWS = 16
_MINUS_STEP = np.float32(-(2**-32) * (1 - 2**-24))  # so that the largest integer still gives a number below 1
_MINUS_HALF_STEP = np.float32(-(2**-33))


def gumbel(integers: npt.NDArray[np.uint32], out: npt.NDArray[np.float32]) -> None:
    """Standard Gumbel numbers, -log(-log(1 - u)), from uniform 32-bit integers k as u = (k + 1/2) / 2^32.

    The right tail, which decides who has the largest score, comes from the small u that float32 resolves finely; all
    numbers are finite (-2.8 to 22.9), so that a score of -inf stays what it is.
    """
    np.copyto(out, integers, casting="unsafe")
    np.multiply(out, _MINUS_STEP, out=out)
    np.add(out, _MINUS_HALF_STEP, out=out)
    np.log1p(out, out=out)
    np.negative(out, out=out)
    np.log(out, out=out)
    np.negative(out, out=out)


class NoiseStream:
    """Gumbel noise by output position, drawn when first asked for and dropped when released.

    Args:
        seed: the same seed gives the same noise; None is random.
        vocab_size: length of a vector.
    """

    def __init__(self, seed: int | None, vocab_size: int) -> None:
        self._bits = np.random.SFC64(None if seed is None else seed % 2**64)
        self._vocab_size = vocab_size
        self._block = np.empty((0, vocab_size), dtype=np.float32)
        self._block_start = 0  # position of the block's first row
        self._released = 0  # positions before it are never asked for again
        self._drawn = 0  # positions before it have been drawn

    def rows(self, first_position: int, count: int) -> npt.NDArray[np.float32]:
        """The noise of `count` positions (0 is the first new token), contiguous and not to be changed. [count, vocab]

        What was returned stays as it is, whatever is asked for later.
        """
        if first_position < self._released:
            raise ValueError(f"the noise of position {first_position} was released, as was all before {self._released}")
        end = first_position + count
        if end > self._block_start + len(self._block):
            self._start_block(end)
        while self._drawn < end:
            self._draw(self._block[self._drawn - self._block_start])
            self._drawn += 1
        return self._block[first_position - self._block_start : end - self._block_start]

    def release(self, position: int) -> None:
        """Positions before `position` will not be asked for again; their memory goes with the block they are in."""
        self._released = max(self._released, position)

    def _start_block(self, end: int) -> None:
        """Move to a new block that has room up to position `end`; rows handed out keep the old one alive."""
        start = min(self._released, self._drawn)
        block = np.empty((max(_BLOCK_ROWS, 2 * (end - start)), self._vocab_size), dtype=np.float32)
        block[: self._drawn - start] = self._block[start - self._block_start : self._drawn - self._block_start]
        self._block, self._block_start = block, start

    def _draw(self, row: npt.NDArray[np.float32]) -> None:
        """Fill a row with the next vector of the stream; each takes whole 64-bit numbers."""
        gumbel(self._bits.random_raw((self._vocab_size + 1) // 2).view(np.uint32)[: self._vocab_size], row)
