"""`OnTheFlySettings`: what drafting without a profile can be told. Knows nothing of how it is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autodraft.errors import InputError
from autodraft.policy import KEPT_BIT_WIDTHS

OnTheFlyMode = Literal["swift", "knapsack"]


@dataclass(frozen=True)
class OnTheFlySettings:
    """How a draft is looked for while decoding goes on.

    The defaults that SWIFT (arXiv 2410.06916) also has are SWIFT's, but for `bayes_interval` (25 there): with a bounded
    share of time a sequence sees tens of candidates, not a thousand.

    Attributes:
        mode: where candidates come from: "swift", random and Bayesian proposals; "knapsack", the dynamic programme over
            hidden states of CLaSp (arXiv 2505.24196) and KnapSpec (arXiv 2602.20217).
        bits: bit-widths to choose from; None takes all that are fast on the device, (16,) leaves skipping only. Weights
            at each of them are packed beforehand and stay in memory.
        window: most recent generated tokens that a candidate is judged on.
        stretch: positions drafted from one root inside the window; a new stretch starts from the target's keys.
        max_draft_tokens: longest chain that is drafted.
        stop_threshold: drafting ends after a token of lower draft probability (kept).
        time_share: share of decoding time that looking for better drafts may take.
        warm_time_share: the same until `warm_steps` candidates have been judged, and again after a shift of domain.
        warm_steps: candidates judged at the larger share.
        most_lost: share of plain decoding's time that drafting and looking may lose together (see `Stake`).
        patience: candidates in a row without an improvement after which the interval between steps doubles.
        max_interval: cycles between two steps at most.
        max_pause: the same while neither the draft nor any candidate would be faster than plain decoding.
        shift_drop: relative loss of the draft's matchness that counts as a shift of domain.
        bayes_interval: every so many proposals the surrogate makes one ("swift").
        refresh: cycles between two runs of the dynamic programme ("knapsack").
        levels: time budgets that it tells apart; below the number of sub-layers single skips are lost between them.
        reference_tokens: last positions whose hidden states it compares.
        front: policies of its final column that are judged on the window.
        seed: of the random proposals.
    """

    mode: OnTheFlyMode = "swift"
    bits: tuple[int, ...] | None = None
    window: int = 32
    stretch: int = 8
    max_draft_tokens: int = 25
    stop_threshold: float = 0.8
    time_share: float = 0.05
    warm_time_share: float = 0.15
    warm_steps: int = 16
    most_lost: float = 0.03
    patience: int = 8
    max_interval: int = 64
    max_pause: int = 1024
    shift_drop: float = 0.25
    bayes_interval: int = 2
    refresh: int = 64
    levels: int = 32
    reference_tokens: int = 1
    front: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("swift", "knapsack"):
            raise InputError(f"on-the-fly mode is {self.mode!r}; it is 'swift' or 'knapsack'")
        if self.bits is not None and (not self.bits or not set(self.bits) <= set(KEPT_BIT_WIDTHS)):
            raise InputError(f"bits are {self.bits}; choose from {KEPT_BIT_WIDTHS}")
        counts = ("window", "stretch", "max_draft_tokens", "patience", "bayes_interval", "refresh")
        for name in (*counts, "max_interval", "max_pause", "levels", "reference_tokens", "front"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("stop_threshold", "time_share", "warm_time_share", "most_lost", "shift_drop"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
