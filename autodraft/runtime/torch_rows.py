"""`RowInputs`: the rows of a forward pass as tensors of fixed shape on a device.

Knows nothing of models. Rows that are not used are padding: they write to spare slots behind the cache and see one key,
so that whatever they compute is finite and stays there. A step that was captured as a graph reads these tensors where
they are; filling them is all that a new call of it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autodraft.runtime.rows import Rows
from autodraft.runtime.torch_cache import KEY_BLOCK, ROW_PADDING

PATH_SLOTS = 64
"""Longest path of a row that is put in order; see `RowInputs`."""
NO_FLOOR = -(1 << 40)
"""Of rows that see whatever their mask says; far enough for following rows to have none either."""
IN_PLACE = 1 << 30
"""Where the path of a row begins whose keys all lie in order."""
_NUMBER_BYTES = 4 * 8  # of a row: token, position, slot and floor
_PATH_BYTES = 4 * (1 + PATH_SLOTS)


class RowInputs:
    """Up to `count` rows that see the first `keys` slots.

    The branches of a tree lie scattered behind the committed slots, and sums over keys in another order round
    otherwise. With `ordered`, a row sees its keys where they would lie without the other branches: key `i` of its path
    stands at `start of path + i`, and `paths` says in which slot it is.

    Args:
        count: rows, padding included.
        keys: slots that a row can see.
        spare: first of the slots that padding rows write to.
        device: where the tensors are.
        lasting: filled again and again, which is worth memory that a device can read from by itself.
        ordered: put the keys of paths in order, where all rows are of one tree.
        window: keys that a row sees at most in blocks with a sliding window.

    Attributes:
        numbers: tokens, positions, slots and floors. [4, count]
        mask: True where a row sees a key. [count, keys]
        starts: where the path of each row begins, `IN_PLACE` where each of its keys lies where it stands. int32 [count]
        paths: slots of the keys from there on. int32 [count, PATH_SLOTS]
    """

    def __init__(
        self,
        count: int,
        keys: int,
        spare: int,
        device: torch.device,
        *,
        lasting: bool = False,
        ordered: bool = False,
        window: int | None = None,
    ) -> None:
        self._ordered, self._window = ordered, window
        self._sent = torch.cuda.Event() if lasting and device.type == "cuda" else None
        size = (keys + _NUMBER_BYTES + _PATH_BYTES) * count  # one buffer, one transfer
        self._host = torch.zeros(size, dtype=torch.uint8, pin_memory=self._sent is not None)
        mask, numbers, starts, paths = self._host.split(_sizes(count, keys))
        self._host_mask = mask.numpy().view(np.bool_).reshape(count, keys)
        self._host_numbers = numbers.numpy().view(np.int64).reshape(4, count)
        self._host_starts = starts.numpy().view(np.int32)
        self._host_paths = paths.numpy().view(np.int32).reshape(count, PATH_SLOTS)
        self._idle_slots = spare + np.arange(count) % ROW_PADDING  # many may share a few: nobody reads them
        self._pad(0)
        # A copy even on the CPU: what follows a step must not change what the next `fill` starts from.
        self._buffer = self._host.to(device, copy=True)
        mask, numbers, starts, paths = self._buffer.split(_sizes(count, keys))
        self.numbers: Tensor = numbers.view(torch.int64).view(4, count)
        self.mask: Tensor = mask.view(torch.bool).view(count, keys)
        self.starts: Tensor = starts.view(torch.int32)
        self.paths: Tensor = paths.view(torch.int32).view(count, PATH_SLOTS)
        self._next = torch.tensor([[0], [1], [1], [1]], device=device)

    def _pad(self, first: int) -> None:
        """Make padding of the rows from `first` on."""
        self._host_numbers[:2, first:] = 0
        self._host_numbers[2, first:] = self._idle_slots[first:]
        self._host_numbers[3] = NO_FLOOR
        self._host_mask[:] = False
        self._host_mask[first:, 0] = True
        self._host_starts[:] = IN_PLACE

    @property
    def tokens(self) -> Tensor:
        return self.numbers[0]

    @property
    def positions(self) -> Tensor:
        return self.numbers[1]

    @property
    def slots(self) -> Tensor:
        return self.numbers[2]

    @property
    def floors(self) -> Tensor:
        """In blocks with a sliding window a row does not see slots below its floor. [count]"""
        return self.numbers[3]

    @property
    def windowed_mask(self) -> Tensor:
        """The mask in blocks with a sliding window. [count, keys]"""
        return self.mask & (torch.arange(self.mask.shape[1], device=self.mask.device) >= self.floors[:, None])

    def fill(self, rows: Rows) -> None:
        """Put `rows` in the first places; the rest is padding."""
        n, mask = len(rows), self._host_mask
        if self._sent is not None:
            self._sent.synchronize()
        self._pad(n)
        self._host_numbers[:3, :n] = rows.tokens, rows.positions, rows.slots
        if self._window:  # the keys of a prefix lie in order of position
            starts = np.asarray(rows.prefix_starts)
            self._host_numbers[3, :n] = starts + np.asarray(rows.positions) + 1 - self._window
        prefixes = list(zip(rows.prefix_starts, rows.prefix_lengths, strict=True))
        is_tree = self._ordered and len(set(prefixes)) == 1
        for row, ((start, length), path) in enumerate(zip(prefixes, rows.paths, strict=True)):
            end, size = start + length, len(path)
            mask[row, start:end] = True
            if is_tree and size <= PATH_SLOTS and _is_scattered(path, end):
                mask[row, end : end + size] = True
                self._host_starts[row], self._host_paths[row, :size] = end, path
            else:
                mask[row, list(path)] = True
        self._buffer.copy_(self._host, non_blocking=True)
        if self._sent is not None:
            self._sent.record()

    def orders(self, block: range) -> slice | Tensor:
        """The slots of the keys of a block: the same for all rows where they lie in order, else [count, keys].

        As they were filled last, which a graph does not ask again: not for steps that are captured.
        """
        if self._host_starts.min() >= block.stop:
            return slice(block.start, block.stop)
        key = torch.arange(block.start, block.stop)
        place = key - self.starts[:, None]
        is_moved = (place >= 0) & (place < PATH_SLOTS)
        return torch.where(is_moved, self.paths.gather(1, place.clamp(0, PATH_SLOTS - 1)), key)

    def follow(self, rows: RowInputs, row: Tensor, token: Tensor) -> None:
        """Become `token` after one of `rows`, in every place; nothing of it needs the host. [1], [1]"""
        following = rows.numbers.index_select(1, row) + self._next
        following[0] = token
        # A row of padding follows itself into slots behind all keys, where there is nothing to mark.
        own = following[2:3].clamp(max=self.mask.shape[1] - 1)
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


def _sizes(count: int, keys: int) -> list[int]:
    """Bytes of the mask, the numbers, and the starts and slots of paths in one buffer."""
    return [count * keys, _NUMBER_BYTES * count, 4 * count, 4 * PATH_SLOTS * count]


def _is_scattered(path: Sequence[int], end: int) -> bool:
    """Whether the slots of a path, which ascend behind `end`, are not those that follow it."""
    return path[0] >= end and path[-1] != end + len(path) - 1


def slots_seen(rows: Rows) -> int:
    """Slots from the first one to the last that any row sees."""
    prefixes = (start + length for start, length in zip(rows.prefix_starts, rows.prefix_lengths, strict=True))
    return max(max(prefixes), 1 + max(max(path) for path in rows.paths))


def whole_blocks(slots: int) -> int:
    """`slots`, rounded up to whole blocks of keys."""
    return -(-slots // KEY_BLOCK) * KEY_BLOCK
