"""How the next token is chosen from the target's logits: the settings, and the one function that applies them.

Knows nothing of drafts or trees. Semantics and order are those of Hugging Face's logits processors: repetition
penalty, temperature, top-k, top-p. Choosing is the Gumbel-max trick with one noise vector per output position, so the
output is a function of the noise and the target alone, whatever was drafted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
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


def penalise(logits: Tensor, penalty: float, seen: Tensor | None) -> Tensor:
    """Logits with the repetition penalty on the tokens that are `seen`. [n, vocab] -> [n, vocab]"""
    if seen is None or penalty == 1.0:
        return logits
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def filtered_scores(logits: Tensor, config: SamplingConfig, seen: Tensor | None = None) -> Tensor:
    """Logits as they are sampled from: the only place where the settings take effect.

    Args:
        logits: raw logits of the target, one row per node. [n, vocab]
        config: the settings, not greedy.
        seen: tokens that occur in each node's context, for the repetition penalty. bool [n, vocab]

    Returns:
        Log-probabilities up to a constant per row, -inf for tokens that are never chosen; no row depends on the rows
        beside it. float32 [n, vocab]
    """
    scores = penalise(logits, config.repetition_penalty, seen) / config.temperature
    if 0 < config.top_k < scores.shape[-1]:
        smallest_kept = torch.topk(scores, config.top_k).values[:, -1:]
        scores = scores.masked_fill(scores < smallest_kept, -torch.inf)
    if config.top_p < 1:
        probs = torch.softmax(scores, -1, dtype=torch.float64)
        scores = scores.masked_fill(scores < _top_p_cutoff(scores, probs, config.top_p), -torch.inf)
    return scores


def probabilities(logits: Tensor, config: SamplingConfig, seen: Tensor | None = None) -> Tensor:
    """The distributions that tokens are drawn from; arguments as for `filtered_scores`.

    Greedy gives all probability to the largest logit.

    Returns:
        float64 rows that add up to 1. [n, vocab]
    """
    if config.is_greedy:
        best = penalise(logits, config.repetition_penalty, seen).argmax(-1)
        return torch.nn.functional.one_hot(best, logits.shape[-1]).double()
    return torch.softmax(filtered_scores(logits, config, seen), -1, dtype=torch.float64)


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


def choose(scores: Tensor, noise: npt.NDArray[np.float32] | Tensor) -> int:
    """The token of the largest sum: with Gumbel noise, a sample of softmax(scores) (the Gumbel-max trick).

    Tokens whose score is -inf are never chosen. `scores`: float32 [vocab]; `noise`: finite, [vocab], on the host
    where they are there.
    """
    if isinstance(noise, Tensor):
        return int((scores + noise).argmax())
    return int((scores.numpy() + noise).argmax())


class SeenTokens:
    """Which tokens occur in prompt and output, for the repetition penalty."""

    def __init__(self, tokens: Iterable[int], vocab_size: int, device: torch.device | str) -> None:
        self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self.add(tokens)

    def add(self, tokens: Iterable[int]) -> None:
        """Note committed tokens."""
        self._seen[list(tokens)] = True

    def on_path(self, tokens: Sequence[int]) -> Tensor:
        """The tokens of the context and of a path on from it, for one row of logits. bool [1, vocab]"""
        seen = self._seen.clone()
        seen[list(tokens)] = True
        return seen.unsqueeze(0)
