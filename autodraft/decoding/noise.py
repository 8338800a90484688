"""`NoiseStream`: the Gumbel noise of a generation, one vector over the vocabulary per output position.

Knows nothing of logits, trees or drafts; whoever chooses a token for a position adds that position's vector to the
scores. Vectors are drawn in order of position, so they are the same for the same seed in whatever order they are asked
for. Where logits are on a CUDA device the noise is drawn there, by a generator of its own: to draw that of a large
vocabulary on the host and to send it over would take a good part of a step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

NoiseRows = TypeVar("NoiseRows", npt.NDArray[np.float32], Tensor)

_BLOCK_ROWS = 16
_ROWS_AT_ONCE = 16  # on a device, where a few launches draw many as fast as one
_MINUS_STEP = -(2**-32) * (1 - 2**-24)  # so that the largest integer still gives a number below 1
_MINUS_HALF_STEP = -(2**-33)


def to_gumbel(integers: Any, library: Any) -> None:
    """Standard Gumbel numbers, -log(-log(1 - u)), in the place of uniform 32-bit integers k, with u = (k + 1/2) / 2^32.

    `integers` as float32, an array of `library`, NumPy or PyTorch. The right tail, which decides who has the largest
    score, comes from the small u that float32 resolves finely. All numbers are finite (-2.8 to 22.9), so that a score
    of -inf stays what it is.
    """
    library.multiply(integers, _MINUS_STEP, out=integers)
    library.add(integers, _MINUS_HALF_STEP, out=integers)
    library.log1p(integers, out=integers)
    library.negative(integers, out=integers)
    library.log(integers, out=integers)
    library.negative(integers, out=integers)


class NoiseStream(ABC, Generic[NoiseRows]):
    """Gumbel noise by output position, drawn when first asked for and dropped when released.

    Args:
        vocab_size: length of a vector.
    """

    _rows_at_once: int
    """Positions that are drawn together."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._block: NoiseRows = self._empty(0)
        self._block_start = 0  # position of the block's first row
        self._released = 0  # positions before it are never asked for again
        self._drawn = 0  # positions before it have been drawn

    @abstractmethod
    def _empty(self, count: int) -> NoiseRows:
        """Room for the noise of so many positions. [count, vocab]"""

    @abstractmethod
    def _draw(self, rows: NoiseRows) -> None:
        """Fill `_rows_at_once` rows with the next vectors of the stream."""

    def rows(self, first_position: int, count: int) -> NoiseRows:
        """The noise of `count` positions (0 is the first new token), contiguous and not to be changed. [count, vocab]

        What was returned stays as it is, whatever is asked for later.
        """
        if first_position < self._released:
            raise ValueError(f"the noise of position {first_position} was released, as was all before {self._released}")
        end = first_position + count
        missing = max(0, end - self._drawn)
        drawn = self._drawn + missing + -missing % self._rows_at_once
        if drawn > self._block_start + len(self._block):
            self._start_block(drawn)
        for start in range(self._drawn, drawn, self._rows_at_once):
            at = start - self._block_start
            self._draw(self._block[at : at + self._rows_at_once])
        self._drawn = drawn
        found: NoiseRows = self._block[first_position - self._block_start : end - self._block_start]
        return found

    def release(self, position: int) -> None:
        """Positions before `position` will not be asked for again; their memory goes with the block they are in."""
        self._released = max(self._released, position)

    def _start_block(self, end: int) -> None:
        """Move to a new block that has room up to position `end`; rows handed out keep the old one alive."""
        start = min(self._released, self._drawn)
        block = self._empty(max(_BLOCK_ROWS, 2 * (end - start)))
        block[: self._drawn - start] = self._block[start - self._block_start : self._drawn - self._block_start]
        self._block, self._block_start = block, start


class HostNoise(NoiseStream[npt.NDArray[np.float32]]):
    """Noise on the host, position by position.

    Args:
        seed: the same seed gives the same noise; None is random.
        vocab_size: length of a vector.
    """

    _rows_at_once = 1

    def __init__(self, seed: int | None, vocab_size: int) -> None:
        self._bits = np.random.SFC64(None if seed is None else seed % 2**64)
        super().__init__(vocab_size)

    def _empty(self, count: int) -> npt.NDArray[np.float32]:
        return np.empty((count, self._vocab_size), dtype=np.float32)

    def _draw(self, rows: npt.NDArray[np.float32]) -> None:
        """Each vector takes whole 64-bit numbers."""
        integers = self._bits.random_raw((self._vocab_size + 1) // 2).view(np.uint32)[: self._vocab_size]
        np.copyto(rows[0], integers, casting="unsafe")
        to_gumbel(rows[0], np)


class DeviceNoise(NoiseStream[Tensor]):
    """Noise on a device, many positions at once.

    Args:
        seed: the same seed gives the same noise on the same kind of device; None is random.
        vocab_size: length of a vector.
        device: where it is drawn and stays.
    """

    _rows_at_once = _ROWS_AT_ONCE

    def __init__(self, seed: int | None, vocab_size: int, device: torch.device) -> None:
        self._generator = torch.Generator(device)
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed % 2**63)
        super().__init__(vocab_size)

    def _empty(self, count: int) -> Tensor:
        return torch.empty((count, self._vocab_size), device=self._generator.device)

    def _draw(self, rows: Tensor) -> None:
        integers = torch.empty(rows.shape, dtype=torch.int32, device=rows.device)
        integers.random_(-(2**31), 2**31, generator=self._generator)
        rows.copy_(integers)
        rows += 2.0**32 * (integers < 0)  # the bits as an unsigned number; small ones lose nothing
        to_gumbel(rows, torch)


def noise_stream(seed: int | None, vocab_size: int, device: torch.device) -> NoiseStream[Any]:
    """The noise of a generation whose logits are on `device`."""
    return DeviceNoise(seed, vocab_size, device) if device.type == "cuda" else HostNoise(seed, vocab_size)
