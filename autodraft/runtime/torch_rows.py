"""`RowInputs`: the rows of a forward pass as tensors of fixed shape on a device.

Knows nothing of models. Rows that are not used are padding: they write to spare slots behind the cache and see one key,
so that whatever they compute is finite and stays there. A step that was captured as a graph reads these tensors where
they are; filling them is all that a new call of it takes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autodraft.runtime.rows import Rows
from autodraft.runtime.torch_cache import KEY_BLOCK, ROW_PADDING


class RowInputs:
    """Up to `count` rows that see the first `keys` slots.

    Args:
        count: rows, padding included.
        keys: slots that a row can see.
        spare: first of the slots that padding rows write to.
        device: where the tensors are.

    Attributes:
        numbers: tokens, positions and slots. [3, count]
        mask: True where a row sees a slot. [count, keys]
    """

    def __init__(self, count: int, keys: int, spare: int, device: torch.device) -> None:
        self._spare = spare
        numbers, mask = self._padding(count, keys)
        self.numbers, self.mask = numbers.to(device), mask.to(device)
        self._next = torch.tensor([[0], [1], [1]], device=device)

    def _padding(self, count: int, keys: int) -> tuple[Tensor, Tensor]:
        numbers, mask = torch.zeros((3, count), dtype=torch.int64), torch.zeros((count, keys), dtype=torch.bool)
        # All padding rows may write to the same few slots: nobody reads them.
        numbers[2] = self._spare + torch.arange(count) % ROW_PADDING
        mask[:, 0] = True
        return numbers, mask

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
        n = len(rows)
        numbers, mask = self._padding(*self.mask.shape)
        numbers[:, :n] = torch.tensor([list(rows.tokens), list(rows.positions), list(rows.slots)])
        mask[:n, 0] = False
        for row, (start, length, path) in enumerate(
            zip(rows.prefix_starts, rows.prefix_lengths, rows.paths, strict=True)
        ):
            mask[row, start : start + length] = True
            mask[row, list(path)] = True
        self.numbers.copy_(numbers)
        self.mask.copy_(mask)

    def follow(self, rows: RowInputs, row: Tensor, token: Tensor) -> None:
        """Become the only row: `token` after one of `rows`; nothing of it needs the host. [1], [1]"""
        following = rows.numbers.index_select(1, row) + self._next
        following[0] = token
        # A row of padding follows itself into slots behind all keys, where there is nothing to mark.
        own = following[2:].clamp(max=self.mask.shape[1] - 1)
        self.mask.copy_(rows.mask.index_select(0, row).scatter_(1, own, True))
        self.numbers.copy_(following)


def slots_seen(rows: Rows) -> int:
    """Slots from the first one to the last that any row sees."""
    prefixes = (start + length for start, length in zip(rows.prefix_starts, rows.prefix_lengths, strict=True))
    return max(max(prefixes), 1 + max(max(path) for path in rows.paths))


def whole_blocks(slots: int) -> int:
    """`slots`, rounded up to whole blocks of keys."""
    return -(-slots // KEY_BLOCK) * KEY_BLOCK
