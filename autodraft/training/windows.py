"""Training windows: slices of the token stream, mixed with edit examples.

A sampler whose whole state is three small values, so that a resumed run continues with the very
windows that the stopped one would have seen. Knows nothing about the model or the optimiser.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from autodraft.training.augment import random_edit
from autodraft.training.config import Phase
from autodraft.training.tokens import TokenStream, encode

PIECE = 256  # granularity of the shuffled order; a longer window starts at a piece and runs on


class WindowSampler:
    """Draws `[rows, length + 1]` batches: inputs are all but the last column, labels all but the first."""

    def __init__(
        self,
        stream: TokenStream,
        texts: Sequence[str],
        tokenizer: PreTrainedTokenizerFast,
        phases: Sequence[Phase],
        edit_share: float,
        seed: int,
    ) -> None:
        self._stream = stream
        self._texts = texts
        self._tokenizer = tokenizer
        self._phases = phases
        self._edit_share = edit_share
        self._seed = seed
        self._rng = random.Random(seed)
        self._epoch = 0
        self._cursor = 0
        longest = max(length for phase in phases for length in phase.weights)
        self._num_starts = (len(stream) - longest - 1) // PIECE
        if self._num_starts < 1:
            raise ValueError(f"the corpus has {len(stream)} tokens, too few for windows of {longest}")
        self._order = self._shuffled()

    def state(self) -> dict[str, Any]:
        return {"rng": self._rng.getstate(), "epoch": self._epoch, "cursor": self._cursor}

    def restore(self, state: dict[str, Any]) -> None:
        self._rng.setstate(state["rng"])
        self._epoch, self._cursor = state["epoch"], state["cursor"]
        self._order = self._shuffled()

    def draw(self, progress: float, tokens: int) -> torch.Tensor:
        """A batch of `tokens` tokens in windows of one length, which fits the run's progress in [0, 1]."""
        weights = next(p.weights for p in reversed(self._phases) if p.start <= progress)
        length = self._rng.choices(list(weights), list(weights.values()))[0]
        rows = [self._row(length) for _ in range(tokens // length)]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _row(self, length: int) -> NDArray[np.uint16]:
        if self._rng.random() < self._edit_share:
            return self._edit_row(length)
        if self._cursor == len(self._order):
            self._epoch, self._cursor = self._epoch + 1, 0
            self._order = self._shuffled()
        start = int(self._order[self._cursor]) * PIECE
        self._cursor += 1
        return self._stream[start : start + length + 1]

    def _edit_row(self, length: int) -> NDArray[np.uint16]:
        """Whole edit examples one after another, the last one cut off at the window's end."""
        bos, eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        ids: list[int] = []
        while len(ids) <= length:
            num_lines = self._rng.randint(3, max(4, length // 28))  # a line has about 12 tokens
            example = random_edit(self._texts, num_lines, self._rng)
            ids += [bos, *encode(self._tokenizer, example.text), eos]
        return np.array(ids[: length + 1], dtype=np.uint16)

    def _shuffled(self) -> NDArray[np.int64]:
        return np.random.default_rng((self._seed, self._epoch)).permutation(self._num_starts)


def eval_windows(stream: TokenStream, count: int, length: int) -> torch.Tensor:
    """`count` windows spread evenly over a held-out stream, `[count, length + 1]`; fewer if it is short."""
    count = max(1, min(count, (len(stream) - 1) // length))
    starts = np.linspace(0, max(0, len(stream) - length - 1), count).astype(np.int64)
    return torch.from_numpy(np.stack([stream[s : s + length + 1] for s in starts]).astype(np.int64))
