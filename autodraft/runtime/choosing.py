"""How a draft chooses tokens and when a drafted chain ends: values that every backend understands.

Knows nothing of trees or of verification. Choosing compares `logits / temperature + noise`: without noise it takes the
most probable tokens; with Gumbel noise it draws from the draft's distribution, without replacement where more than
one token is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from autodraft.runtime.rows import Rows

ACCEPTANCE_BINS = 16
"""Bins of `ChainStop.acceptance`, equal in the square of the probability: fine where drafts are sure."""


class Candidates(NamedTuple):
    """The best next tokens after one row, best first, and their probabilities under softmax(logits / T + noise)."""

    tokens: Sequence[int]
    probs: Sequence[float]


@dataclass(frozen=True, slots=True)
class ChoiceNoise:
    """Noise for sampled drafting.

    Attributes:
        temperature: logits are divided by it.
        rows: row `d` is added for the tokens at depth `d + 1` below the root; on the device of the logits where that is
            not the host. float32 [depths, vocab], contiguous
    """

    temperature: float
    rows: np.ndarray | Tensor

    def at(self, depths: Sequence[int]) -> Tensor:
        """Some of the rows. [n, vocab]"""
        if isinstance(self.rows, np.ndarray):
            return torch.from_numpy(self.rows[list(depths)])
        first, last = depths[0], depths[-1]
        if list(depths) == list(range(first, last + 1)):
            return self.rows[first : last + 1]  # needs nothing from the host
        return self.rows[torch.tensor(depths, device=self.rows.device)]


@dataclass(frozen=True, slots=True)
class ChainStop:
    """When a drafted chain ends before its longest; the token that ends it is kept.

    Attributes:
        threshold: it ends after a token whose probability is below this.
        acceptance: estimated acceptance of a token by its probability, `ACCEPTANCE_BINS` of them; None: not estimated.
        reach: estimated probability that the token before the chain is accepted.
        least: with `acceptance`, it ends after a token whose own estimated reach is below this.
        last_tokens: it ends after one of these.
    """

    threshold: float = 0.0
    acceptance: Sequence[float] | None = None
    reach: float = 1.0
    least: float = 0.0
    last_tokens: Sequence[int] = ()

    @property
    def may_end(self) -> bool:
        """Whether a chain may end because of what a draft thinks of its tokens."""
        return self.threshold > 0.0 or (self.acceptance is not None and self.least > 0.0)

    def ends_after(self, token: int, prob: float, reach: float) -> tuple[bool, float]:
        """(whether the chain ends after this token of this probability, the token's estimated reach)."""
        if self.acceptance is not None:
            reach *= self.acceptance[acceptance_bin(prob)]
        unlikely = prob < self.threshold or (self.acceptance is not None and reach < self.least)
        return unlikely or token in self.last_tokens, reach


NEVER = ChainStop()


def acceptance_bin(prob: float) -> int:
    """The bin of `ChainStop.acceptance` that a probability falls into."""
    return min(int(prob * prob * ACCEPTANCE_BINS), ACCEPTANCE_BINS - 1)


def noised(logits: Tensor, noise: ChoiceNoise | None, depths: Sequence[int]) -> Tensor:
    """What tokens are chosen by; `depths[i]` is the row of the noise for row i of the logits. [n, vocab]"""
    if noise is None:
        return logits
    return logits / noise.temperature + noise.at(depths)


def argmax_tokens(scores: Tensor) -> list[int]:
    """The token of the largest score of each row. [n, vocab]

    On a CPU by NumPy, whose argmax over few long rows is vectorised where ATen's is not.
    """
    best = scores.numpy().argmax(-1) if scores.device.type == "cpu" else scores.argmax(-1)
    tokens: list[int] = best.tolist()
    return tokens


def best_tokens(
    logits: Tensor, top: int, noise: ChoiceNoise | None = None, depths: Sequence[int] = ()
) -> list[Candidates]:
    """The `top` best tokens of each row, in plain PyTorch; arguments as for `noised`. [n, vocab]"""
    scores = noised(logits, noise, depths)
    return [Candidates(*pair) for pair in zip(*(part.tolist() for part in best_of(scores, top)), strict=True)]


def best_of(scores: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The `top` best tokens of each row, best first, and their probabilities. [n, vocab] -> int64 and float32 [n, top]

    The first one is the argmax, the earliest of equals: probabilities round differences away, and a chain has to go on
    as the target itself would.
    """
    tokens = scores.argmax(-1, keepdim=True)
    if top > 1:
        others = scores.scatter(-1, tokens, -torch.inf)
        tokens = torch.cat([tokens, torch.topk(others, top - 1).indices], -1)
    return tokens, torch.softmax(scores, -1).gather(-1, tokens)


def greedy_chain(
    logits: Callable[[Rows], Tensor],
    fed: Sequence[int],
    position: int,
    num_tokens: int,
    top: int,
    stop: ChainStop,
    noise: ChoiceNoise | None,
) -> list[Candidates]:
    """`TransformerRuntime.draft_chain` over any forward pass to logits [n, vocab]; `fed` begins at `position`."""
    drafted: list[Candidates] = []
    reach = stop.reach
    while len(drafted) < num_tokens:
        found = logits(Rows.chain(fed, position))
        position += len(fed)
        drafted += best_tokens(found[-1:], top, noise, [len(drafted)])
        ended, reach = stop.ends_after(drafted[-1].tokens[0], drafted[-1].probs[0], reach)
        if ended:
            break
        fed = drafted[-1].tokens[:1]
    return drafted
