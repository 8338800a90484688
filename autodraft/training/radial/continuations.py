"""`Continuations`: the target's own greedy continuations, as rows on which routes are tried and judged.

Knows nothing of routers. The target runs once; its keys and values stay in one cache, and every row sees those of the
positions before its own, so what a route is worth at one position does not depend on the routes of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autodraft.runtime import KVCache, Rows, TransformerRuntime

ROWS_PER_PASS = 512


@dataclass(frozen=True)
class Trial:
    """Rows of one pass, and what the target chooses after each of them. int64 [n]"""

    rows: Rows
    wanted: Tensor


class Continuations:
    """Prompts of equal length continued by the target.

    Args:
        runtime: the target.
        prompts: token ids. int64 [sequences, prompt]
        new_tokens: continuation of each.
        window: consecutive positions of one draft: 1, as after a verification, or more, where all but the first see the
            draft's own keys of those before.
    """

    def __init__(self, runtime: TransformerRuntime, prompts: Tensor, new_tokens: int, *, window: int = 1) -> None:
        self.runtime, self.window = runtime, window
        self._prompt, self._new = prompts.shape[1], new_tokens // window * window
        self._room = self._prompt + 2 * self._new  # tokens, then a slot for every row that is tried
        self.cache: KVCache = runtime.new_cache(len(prompts) * self._room)
        self._tokens: list[list[int]] = prompts.tolist()
        for first in range(0, len(prompts), ROWS_PER_PASS // 8):
            self._continue(range(first, min(first + ROWS_PER_PASS // 8, len(prompts))))

    @property
    def positions(self) -> int:
        """Of each sequence, those that can be tried."""
        return self._new

    def __len__(self) -> int:
        return len(self._tokens)

    @torch.inference_mode()
    def _continue(self, sequences: Sequence[int]) -> None:
        target, prompt = self.runtime.target, range(self._prompt - 1)
        for sequence in sequences:
            self.runtime.forward(target, self.cache, self._target_rows([sequence], prompt))
        for position in range(self._prompt - 1, self._prompt + self._new - 1):
            rows = self._target_rows(sequences, [position])
            chosen = self.runtime.forward(target, self.cache, rows).argmax(-1).tolist()
            for sequence, token in zip(sequences, chosen, strict=True):
                self._tokens[sequence].append(token)

    def _target_rows(self, sequences: Sequence[int], positions: Sequence[int]) -> Rows:
        at = [(sequence, position) for sequence in sequences for position in positions]
        slots = [sequence * self._room + position for sequence, position in at]
        return Rows(
            [self._tokens[sequence][position] for sequence, position in at],
            [position for _, position in at],
            slots,
            [sequence * self._room for sequence, _ in at],
            [position for _, position in at],
            [[slot] for slot in slots],
        )

    def trial(self, sequences: Sequence[int], *, stride: int = 1, offset: int = 0) -> Trial:
        """All positions of some sequences, or the windows number `offset`, `offset + stride`, .. of each."""
        parts: list[tuple[int, int, int, list[int]]] = []  # token, position, start of the sequence, path
        wanted = []
        for sequence in sequences:
            start, tokens = sequence * self._room, self._tokens[sequence]
            for number in range(offset, self._new // self.window, stride):
                root = self._prompt - 1 + number * self.window
                path: list[int] = []
                for position in range(root, root + self.window):
                    path = [*path, start + position + self._new + 1]
                    parts.append((tokens[position], root, start, path))
                    wanted.append(tokens[position + 1])
        rows = Rows(
            [token for token, _, _, _ in parts],
            [root + len(path) - 1 for _, root, _, path in parts],
            [path[-1] for _, _, _, path in parts],
            [start for _, _, start, _ in parts],
            [root for _, root, _, _ in parts],
            [path for _, _, _, path in parts],
        )
        return Trial(rows, torch.tensor(wanted))

    def trials(self, stride: int = 1) -> list[Trial]:
        """Everything, in passes of a size that the engine likes."""
        per_sequence = -(-(self._new // self.window) // stride) * self.window
        step = max(1, ROWS_PER_PASS // per_sequence)
        groups = [range(first, min(first + step, len(self))) for first in range(0, len(self), step)]
        return [self.trial(group, stride=stride) for group in groups]
