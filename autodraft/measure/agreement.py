"""F1: teacher-forced top-1 agreement of a policy with the target, without decoding.

Knows nothing of time. The target continues the calibration prompts greedily once, all of them side by side in one
cache. A policy is then run over windows of consecutive positions as it would be in a cycle: a row sees the
target's keys for everything before its window and the draft's own keys inside it, written to scratch slots, so that
the target's keys stay as they are and the next policy finds them again. This is `top1_agreement`; acceptance
(alpha) is what decoding shows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autodraft.errors import InputError
from autodraft.measure.chain_cycles import ChainCycles, chain_cycles
from autodraft.policy import DraftPolicy
from autodraft.profile_parts import WeightsFile
from autodraft.runtime import KVCache, Rows, TransformerRuntime

WINDOW = 4
MOST_ROWS = 256


@dataclass(frozen=True)
class Agreement:
    """How a draft's choices compare with the target's.

    Attributes:
        matches: whether each drafted position in each window agrees. [windows, window]
        confidence: the draft's probability of its own choice. [windows, window]
    """

    matches: np.ndarray
    confidence: np.ndarray

    @property
    def top1_agreement(self) -> float:
        """Share of positions at which both choose the same token."""
        return float(self.matches.mean())

    def cycles(self, num_draft_tokens: int, stop_threshold: float = 0.0) -> ChainCycles:
        """The cycles of a chain along the continuations, one after another; windows have to be consecutive."""
        return chain_cycles(self.matches.ravel(), self.confidence.ravel(), num_draft_tokens, stop_threshold)


@dataclass(frozen=True)
class _Sequence:
    start: int  # first cache slot
    tokens: list[int]  # prompt and continuation
    prompt_length: int


class AgreementMeter:
    """Holds the target's continuations and measures any number of policies against them.

    Args:
        runtime: the target.
        prompts: token ids to continue.
        num_tokens: continuation tokens per prompt.
        window: consecutive positions drafted from one root.
        most_rows: rows of one forward at most.
        eos: token ids after which a continuation no longer counts.
    """

    def __init__(
        self,
        runtime: TransformerRuntime,
        prompts: Sequence[Sequence[int]],
        num_tokens: int,
        *,
        window: int = WINDOW,
        most_rows: int = MOST_ROWS,
        eos: Collection[int] = (),
    ) -> None:
        if not prompts or num_tokens < window:
            raise InputError(f"agreement needs prompts and continuations of at least {window} tokens")
        self.runtime, self.window = runtime, window
        self._rows_per_forward = max(most_rows // window, 1) * window
        room = sum(len(prompt) + num_tokens for prompt in prompts)
        self._scratch = room
        self._cache = runtime.new_cache(room + max(self._rows_per_forward, len(prompts)))
        self.sequences = self._continue(prompts, num_tokens)
        self._windows = self._make_windows(frozenset(eos))

    @property
    def num_rows(self) -> int:
        """Positions that a policy is measured on."""
        return len(self._windows) * self.window

    @torch.inference_mode()
    def _continue(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> list[_Sequence]:
        """Greedy continuations of all prompts at once, leaving the target's keys in the cache."""
        sequences, start = [], 0
        for prompt in prompts:
            sequences.append(_Sequence(start, list(prompt), len(prompt)))
            self._prefill(sequences[-1])
            start += len(prompt) + num_tokens
        for _ in range(num_tokens):
            rows = self._last_rows(sequences)
            chosen = self.runtime.forward(self.runtime.target, self._cache, rows).argmax(dim=-1).tolist()
            for sequence, token in zip(sequences, chosen, strict=True):
                sequence.tokens.append(token)
        return sequences

    def _prefill(self, sequence: _Sequence) -> None:
        """The target's keys for the prompt but its last token."""
        for first in range(0, sequence.prompt_length - 1, self._rows_per_forward):
            positions = range(first, min(first + self._rows_per_forward, sequence.prompt_length - 1))
            rows = _rows_at(sequence, positions)
            self.runtime.forward(self.runtime.target, self._cache, rows)

    @staticmethod
    def _last_rows(sequences: Sequence[_Sequence]) -> Rows:
        parts = [_rows_at(sequence, [len(sequence.tokens) - 1]) for sequence in sequences]
        return _joined(parts)

    def _make_windows(self, eos: frozenset[int]) -> list[tuple[_Sequence, int]]:
        """(sequence, position of the root) of every whole window inside the continuations."""
        windows = []
        for sequence in self.sequences:
            end = next(
                (i for i in range(sequence.prompt_length, len(sequence.tokens)) if sequence.tokens[i] in eos),
                len(sequence.tokens) - 1,
            )
            roots = range(sequence.prompt_length - 1, end - self.window + 1, self.window)
            windows += [(sequence, root) for root in roots]
        if not windows:
            raise InputError("all calibration continuations end at once: nothing to measure agreement on")
        return windows

    def rows(self, most_windows: int | None = None) -> Iterator[tuple[Rows, list[int]]]:
        """Batches of draft rows, and the target's choice at each of them."""
        windows = self._windows if most_windows is None else _spread_out(self._windows, most_windows)
        per_forward = self._rows_per_forward // self.window
        for first in range(0, len(windows), per_forward):
            batch = windows[first : first + per_forward]
            parts = [self._draft_rows(*window, index) for index, window in enumerate(batch)]
            wanted = [sequence.tokens[root + 1 + i] for sequence, root in batch for i in range(self.window)]
            yield _joined(parts), wanted

    def _draft_rows(self, sequence: _Sequence, root: int, index: int) -> Rows:
        """One window: prefix from the target, path in scratch slots."""
        first = self._scratch + index * self.window
        slots = list(range(first, first + self.window))
        return Rows(
            sequence.tokens[root : root + self.window],
            range(root, root + self.window),
            slots,
            [sequence.start] * self.window,
            [root] * self.window,
            [slots[: i + 1] for i in range(self.window)],
        )

    def logits(
        self, policy: DraftPolicy, most_windows: int | None = None, weights: WeightsFile | None = None
    ) -> Iterator[tuple[Tensor, list[int]]]:
        """The draft's logits over batches of rows, and the target's choices. [rows, vocab]"""
        plan = self.runtime.plan(policy, weights)
        for rows, wanted in self.rows(most_windows):
            with torch.inference_mode():
                yield self.runtime.forward(plan, self._cache, rows), wanted

    def measure(
        self, policy: DraftPolicy, most_windows: int | None = None, weights: WeightsFile | None = None
    ) -> Agreement:
        """Agreement of a policy, on `weights` of its own or the target's: over all windows, or some spread evenly."""
        return self._agreement(self.logits(policy, most_windows, weights))

    def measure_passes(self, run: Callable[[KVCache, Rows], Tensor]) -> Agreement:
        """Agreement of any draft: `run` gives its logits over rows whose prefixes are the target's, [n, vocab]."""
        return self._agreement((run(self._cache, rows), wanted) for rows, wanted in self.rows())

    def _agreement(self, batches: Iterable[tuple[Tensor, list[int]]]) -> Agreement:
        matches, confidence = [], []
        for logits, wanted in batches:
            with torch.inference_mode():
                highest, chosen = logits.max(dim=-1)
                confidence.append((highest - logits.logsumexp(dim=-1)).exp().cpu().numpy())
                matches.append(np.asarray(chosen.tolist()) == np.asarray(wanted))
        shape = (-1, self.window)
        return Agreement(np.concatenate(matches).reshape(shape), np.concatenate(confidence).reshape(shape))

    def target_rows(self, most_windows: int | None = None) -> tuple[KVCache, list[Rows]]:
        """The cache and the same batches of rows, for looking at the target's own hidden states."""
        return self._cache, [rows for rows, _ in self.rows(most_windows)]


def _rows_at(sequence: _Sequence, positions: Sequence[int]) -> Rows:
    """Rows of one sequence, written in place; each sees everything before it."""
    slots = [sequence.start + position for position in positions]
    return Rows(
        [sequence.tokens[position] for position in positions],
        positions,
        slots,
        [sequence.start] * len(slots),
        positions,
        [[slot] for slot in slots],
    )


def _joined(parts: Sequence[Rows]) -> Rows:
    """Rows of several sequences in one forward."""
    fields = ("tokens", "positions", "slots", "prefix_starts", "prefix_lengths", "paths")
    return Rows(*([item for part in parts for item in getattr(part, name)] for name in fields))


def _spread_out(windows: list[tuple[_Sequence, int]], count: int) -> list[tuple[_Sequence, int]]:
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(count, len(windows))).round().astype(int))
    return [windows[index] for index in chosen]
