"""Text to go on training a finished model with: files of the user's, or Python's own library, as token streams.

What is held out is never trained on. Windows are a function of seed and step, so that a resumed run sees the very
windows that the stopped one would have seen. Knows nothing of models beyond a tokenizer.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autodraft.errors import InputError
from autodraft.training.corpus import Corpus, SourceFile, load_corpus

TRAINING_TOKENS, HELD_OUT_TOKENS = 2_000_000, 65_536
"""Tokens of either side at most: as many as a short training needs."""

_HELD_OUT_SHARE = 0.05


@dataclass(frozen=True)
class TextStreams:
    """Either side as one stream of token ids, files between the tokenizer's bos and eos, and where they come from."""

    training: NDArray[np.int32]
    held_out: NDArray[np.int32]
    source: str

    def windows(self, count: int, length: int, seed: int, step: int) -> Tensor:
        """The training windows of a step. int64 [count, length + 1]"""
        starts = np.random.default_rng((seed, step)).integers(0, len(self.training) - length, count)
        return _cut(self.training, starts, length)

    def held_out_windows(self, count: int, length: int) -> Tensor:
        """Windows spread evenly over what is held out, fewer where it is short. int64 [count, length + 1]"""
        count = max(1, min(count, (len(self.held_out) - 1) // length))
        return _cut(self.held_out, np.linspace(0, len(self.held_out) - length - 1, count).astype(np.int64), length)


def load_streams(tokenizer: Any, files: Sequence[Path], length: int, seed: int = 0) -> TextStreams:
    """Streams of the user's files, or of the bundled model's corpus where there are none.

    Raises:
        InputError: a file cannot be read, or there is too little text for windows of `length` tokens.
    """
    corpus, source = (_of_files(files), "files of the user's") if files else (_library(), "Python's standard library")
    streams = TextStreams(
        _encoded(tokenizer, corpus.training, TRAINING_TOKENS, seed),
        _encoded(tokenizer, corpus.held_out, HELD_OUT_TOKENS, seed),
        source,
    )
    shortest = min(len(streams.training), len(streams.held_out))
    if shortest <= length + 1:
        raise InputError(f"too little text: {shortest} tokens on one side, and windows have {length}; give more --text")
    return streams


def _library() -> Corpus:
    try:
        return load_corpus()
    except FileNotFoundError as error:
        raise InputError(f"{error}; give --text") from error


def _of_files(files: Sequence[Path]) -> Corpus:
    """The end of each file is held out."""
    training, held_out = [], []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--text {path}: cannot read it as UTF-8 text ({error})") from error
        middle = int(len(text) * (1 - _HELD_OUT_SHARE))
        training.append(SourceFile(str(path), text[:middle]))
        held_out.append(SourceFile(str(path), text[middle:]))
    return Corpus(tuple(training), tuple(held_out))


def _encoded(tokenizer: Any, files: Iterable[SourceFile], most_tokens: int, seed: int) -> NDArray[np.int32]:
    """Files in an order of the seed's, until there are enough tokens."""
    first, last = ([[], [token]][token is not None] for token in (tokenizer.bos_token_id, tokenizer.eos_token_id))
    pieces: list[NDArray[np.int32]] = []
    missing = most_tokens
    for file in random.Random(seed).sample(ordered := list(files), len(ordered)):
        ids = tokenizer(file.text, add_special_tokens=False, verbose=False)["input_ids"]
        pieces.append(np.array([*first, *ids, *last], dtype=np.int32))
        missing -= len(pieces[-1])
        if missing <= 0:
            break
    return np.concatenate(pieces)[:most_tokens] if pieces else np.zeros(0, dtype=np.int32)


def _cut(stream: NDArray[np.int32], starts: NDArray[np.int64], length: int) -> Tensor:
    return torch.from_numpy(np.stack([stream[start : start + length + 1] for start in starts]).astype(np.int64))
