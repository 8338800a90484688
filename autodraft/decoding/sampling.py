"""How the next token is chosen from the target's logits: the settings, and the one function that makes probabilities.

Knows nothing of drafts or trees beyond their parent links. Semantics and order are those of Hugging Face's logits
processors: repetition penalty, temperature, top-k, top-p. Choosing is by inversion: one uniform number per output
position, so the output is a function of the numbers and the target alone, whatever was drafted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autodraft.errors import InputError


@dataclass(frozen=True)
class SamplingConfig:
    """How tokens are chosen.

    Attributes:
        temperature: logits are divided by it; 0 takes the most probable token (greedy).
        top_k: only the k most probable tokens are left; 0 leaves all.
        top_p: only the most probable tokens that together reach this probability are left; 1 leaves all.
            Tokens exactly as probable as the last one that top-k or top-p leaves are left too.
        repetition_penalty: logits of tokens that occur in prompt or output are divided by it if positive and
            multiplied if negative; 1 changes nothing. Applies to greedy decoding too.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature is {self.temperature}; it must be 0 (greedy) or a positive number")
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 0:
            raise InputError(f"top_k is {self.top_k}; it must be 0 (off) or a positive whole number")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; it must be above 0 and at most 1 (off)")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise InputError(
                f"repetition_penalty is {self.repetition_penalty}; it must be a positive number (1 is off)"
            )

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0


GREEDY = SamplingConfig()

_TOP_P_CANDIDATES = 256


def argmax_tokens(logits: Tensor) -> list[int]:
    """The token of the largest logit of each row. [n, vocab]

    On a CPU by NumPy, whose argmax over few long rows is vectorised where ATen's is not.
    """
    best = logits.numpy().argmax(-1) if logits.device.type == "cpu" else logits.argmax(-1)
    tokens: list[int] = best.tolist()
    return tokens


def penalise(logits: Tensor, penalty: float, seen: Tensor | None) -> Tensor:
    """Logits with the repetition penalty on the tokens that are `seen`. [n, vocab] -> [n, vocab]"""
    if seen is None or penalty == 1.0:
        return logits
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def probabilities(logits: Tensor, config: SamplingConfig, seen: Tensor | None = None) -> Tensor:
    """The distributions that tokens are drawn from: the only place where logits become probabilities.

    Args:
        logits: raw logits of the target, one row per node. [n, vocab]
        config: the settings; greedy gives all probability to the largest logit.
        seen: tokens that occur in each node's context, for the repetition penalty. bool [n, vocab]

    Returns:
        float64 rows that add up to 1. [n, vocab]
    """
    logits = penalise(logits, config.repetition_penalty, seen)
    if config.is_greedy:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).double()
    logits = logits / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        smallest_kept = torch.topk(logits, config.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    probs = torch.softmax(logits, -1, dtype=torch.float64)
    if config.top_p < 1:
        probs = probs.masked_fill(logits < _top_p_cutoff(logits, probs, config.top_p), 0.0)
        probs = probs / probs.sum(-1, keepdim=True)
    return probs


def _top_p_cutoff(logits: Tensor, probs: Tensor, top_p: float) -> Tensor:
    """The smallest logit of each row that top-p leaves. [n, 1]

    Where a whole sort can be avoided it is: usually a few hundred tokens reach `top_p`.
    """
    count = min(_TOP_P_CANDIDATES, logits.shape[-1])
    values, tokens = torch.topk(logits, count)
    sorted_probs = probs.gather(1, tokens)
    if count < logits.shape[-1] and bool((sorted_probs.sum(-1) < top_p).any()):
        values, tokens = torch.sort(logits, descending=True, stable=True)
        sorted_probs = probs.gather(1, tokens)
    reached_before = sorted_probs.cumsum(-1) - sorted_probs
    num_kept = (reached_before < top_p).sum(-1, keepdim=True).clamp(min=1)
    return values.gather(1, num_kept - 1)


def choose(target_probs: Tensor, uniforms: Sequence[float]) -> list[int]:
    """One token per row by inversion of its distribution function at the row's number in [0, 1).

    Tokens of probability 0 are never chosen. `target_probs`: float64 [n, vocab]; `uniforms`: [n].
    """
    cumulative = target_probs.cumsum(-1)
    total = cumulative[:, -1:]
    points = torch.tensor(uniforms, dtype=cumulative.dtype, device=cumulative.device).unsqueeze(1) * total
    points = torch.minimum(points, torch.nextafter(total, torch.zeros_like(total)))
    chosen: list[int] = torch.searchsorted(cumulative, points, right=True).squeeze(1).tolist()
    return chosen


class UniformStream:
    """One uniform number in [0, 1) per output position, the same for the same seed in whatever order they are read."""

    def __init__(self, seed: int | None) -> None:
        self._random = random.Random(seed)
        self._drawn: list[float] = []

    def at(self, position: int) -> float:
        """The number of output token `position` (the first new token is 0)."""
        while len(self._drawn) <= position:
            self._drawn.append(self._random.random())
        return self._drawn[position]


class SeenTokens:
    """Which tokens occur in prompt and output, for the repetition penalty: exact for every node of a tree."""

    def __init__(self, tokens: Iterable[int], vocab_size: int, device: torch.device | str) -> None:
        self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self.add(tokens)

    def add(self, tokens: Iterable[int]) -> None:
        """Note committed tokens."""
        self._seen[list(tokens)] = True

    def rows(self, tokens: Sequence[int], parents: Sequence[int]) -> Tensor:
        """For each node of a tree, the tokens of the context and of its path. bool [n, vocab]"""
        paths: list[list[int]] = []
        for token, parent in zip(tokens, parents, strict=True):
            paths.append([*(paths[parent] if parent >= 0 else ()), token])
        nodes = [node for node, path in enumerate(paths) for _ in path]
        rows = self._seen.repeat(len(tokens), 1)
        rows[nodes, [token for path in paths for token in path]] = True
        return rows
