"""`RowInputs`: the rows of a forward pass as tensors of fixed shape on a device.

Knows nothing of models. Rows that are not used are padding: they write to spare slots behind the cache and see one key,
so that whatever they compute is finite and stays there. A step that was captured as a graph reads these tensors where
they are; filling them is all that a new call of it takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autodraft.runtime.rows import Rows
from autodraft.runtime.torch_cache import KEY_BLOCK, ROW_PADDING

_NUMBER_BYTES = 3 * 8  # of a row: token, position and slot


class RowInputs:
    """Up to `count` rows that see the first `keys` slots.

    Args:
        count: rows, padding included.
        keys: slots that a row can see.
        spare: first of the slots that padding rows write to.
        device: where the tensors are.
        lasting: filled again and again, which is worth memory that a device can read from by itself.

    Attributes:
        numbers: tokens, positions and slots. [3, count]
        mask: True where a row sees a slot. [count, keys]
    """

    def __init__(self, count: int, keys: int, spare: int, device: torch.device, lasting: bool = False) -> None:
        self._sent = torch.cuda.Event() if lasting and device.type == "cuda" else None
        size = count * keys + _NUMBER_BYTES * count  # one buffer, one transfer
        self._host = torch.zeros(size, dtype=torch.uint8, pin_memory=self._sent is not None)
        self._host_numbers, self._host_mask = _views(self._host.numpy(), count, keys)
        self._idle_slots = spare + np.arange(count) % ROW_PADDING  # many may share a few: nobody reads them
        self._pad(0)
        # A copy even on the CPU: what follows a step must not change what the next `fill` starts from.
        self._buffer = self._host.to(device, copy=True)
        mask, numbers = self._buffer.split([count * keys, _NUMBER_BYTES * count])
        self.numbers: Tensor = numbers.view(torch.int64).view(3, count)
        self.mask: Tensor = mask.view(torch.bool).view(count, keys)
        self._next = torch.tensor([[0], [1], [1]], device=device)

    def _pad(self, first: int) -> None:
        """Make padding of the rows from `first` on."""
        self._host_numbers[:2, first:] = 0
        self._host_numbers[2, first:] = self._idle_slots[first:]
        self._host_mask[:] = False
        self._host_mask[first:, 0] = True

    @property
    def tokens(self) -> Tensor:
        return self.numbers[0]

    @property
    def positions(self) -> Tensor:
        return self.numbers[1]

    @property
    def slots(self) -> Tensor:
        return self.numbers[2]

    def fill(self, rows: Rows) -> None:
        """Put `rows` in the first places; the rest is padding."""
        n, mask = len(rows), self._host_mask
        if self._sent is not None:
            self._sent.synchronize()
        self._pad(n)
        self._host_numbers[:, :n] = rows.tokens, rows.positions, rows.slots
        for row, (start, length, path) in enumerate(
            zip(rows.prefix_starts, rows.prefix_lengths, rows.paths, strict=True)
        ):
            mask[row, start : start + length] = True
            mask[row, list(path)] = True
        self._buffer.copy_(self._host, non_blocking=True)
        if self._sent is not None:
            self._sent.record()

    def follow(self, rows: RowInputs, row: Tensor, token: Tensor) -> None:
        """Become `token` after one of `rows`, in every place; nothing of it needs the host. [1], [1]"""
        following = rows.numbers.index_select(1, row) + self._next
        following[0] = token
        # A row of padding follows itself into slots behind all keys, where there is nothing to mark.
        own = following[2:].clamp(max=self.mask.shape[1] - 1)
        self.mask.copy_(rows.mask.index_select(0, row).scatter_(1, own, True))
        self.numbers.copy_(following)


@dataclass(frozen=True)
class Drafted:
    """What a chain has drafted, on the device.

    Attributes:
        found: of each token the best ones, best first, and their probabilities; ids as floats, exact below 2^24, so
            that one transfer brings both. [places, 2, top]
        count: the place of the next one; after the last comes the first. [1]
        row: what runs next: the last of them.
    """

    found: Tensor
    count: Tensor
    row: RowInputs

    def add(self, inputs: RowInputs, row: Tensor, tokens: Tensor, probs: Tensor) -> None:
        """Add the best tokens after one of the rows of `inputs`. [1], [1, top], [1, top]"""
        self.found.index_copy_(0, self.count, torch.stack((tokens.float(), probs), 1))
        self.row.follow(inputs, row, tokens[:, 0])
        self.count.add_(1).remainder_(len(self.found))


def _views(buffer: np.ndarray, count: int, keys: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers and the mask in a buffer of bytes."""
    mask, numbers = np.split(buffer, [count * keys])
    return numbers.view(np.int64).reshape(3, count), mask.view(np.bool_).reshape(count, keys)


def slots_seen(rows: Rows) -> int:
    """Slots from the first one to the last that any row sees."""
    prefixes = (start + length for start, length in zip(rows.prefix_starts, rows.prefix_lengths, strict=True))
    return max(max(prefixes), 1 + max(max(path) for path in rows.paths))


def whole_blocks(slots: int) -> int:
    """`slots`, rounded up to whole blocks of keys."""
    return -(-slots // KEY_BLOCK) * KEY_BLOCK
