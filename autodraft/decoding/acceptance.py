"""How likely drafted tokens are to be accepted, learnt from what was accepted.

Knows nothing of trees or models. Two estimates for each draft: an exponential moving average over a window of recent
outcomes, for tokens that are still to be drafted (CAS-Spec, arXiv 2510.26843), and a calibrated probability for each
class of evidence (draft probability, length of a match, rank), for tokens that are drafted but not verified yet.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Final

from autodraft.runtime.choosing import ACCEPTANCE_BINS, acceptance_bin

_LEAST, _MOST = 0.002, 0.998
_LONG_RUN = 400
_PRIOR_COUNT = 8
_CHANCE = 2.0  # standard errors


class MovingAcceptance:
    """How often the next drafted token will be accepted: the long run, unless the recent past says otherwise.

    The recent past is CAS-Spec's average: ema <- weight * ema + (1 - weight) * mean of the last `window` outcomes. Its
    own noise would switch a draft that barely pays off and on; therefore it counts only where the window differs from
    the long run by more than chance would have it. And as a draft that is not used is never seen to be better, in
    cycles without an outcome the window fills with the long run again.

    Args:
        alpha: what to expect before anything was seen.
        weight: of the past (lambda).
        window: number of recent outcomes (H).

    Attributes:
        alpha: the estimate.
    """

    def __init__(self, alpha: float, weight: float, window: int) -> None:
        self.alpha = self._ema = self._long_run = min(max(alpha, _LEAST), _MOST)
        self._weight = weight
        self._recent: deque[float] = deque([self.alpha] * window, maxlen=window)
        self._sum = self.alpha * window
        self._count = float(min(window, _PRIOR_COUNT))

    def update(self, outcomes: Sequence[bool]) -> None:
        """Outcomes of one cycle: whether each drafted token whose parent was accepted was accepted itself."""
        for accepted in outcomes:
            self._push(accepted)
            self._count = min(self._count + 1, _LONG_RUN)
            self._long_run += (accepted - self._long_run) / self._count
        if not outcomes:
            self._push(self._long_run)
        window = len(self._recent)
        mean = self._sum / window
        self._ema = self._weight * self._ema + (1 - self._weight) * mean
        chance = _CHANCE * math.sqrt(self._long_run * (1 - self._long_run) / window)
        alpha = self._long_run if abs(mean - self._long_run) <= chance else self._ema
        self.alpha = min(max(alpha, _LEAST), _MOST)

    def _push(self, outcome: float) -> None:
        self._sum += outcome - self._recent[0]
        self._recent.append(outcome)


class Calibration:
    """Acceptance by class of evidence, with forgetting, so that it follows a text that changes.

    Args:
        priors: acceptance to expect of each class.
        strength: number of outcomes that a prior counts for.
        memory: number of outcomes after which old ones have faded.
    """

    def __init__(self, priors: Sequence[float], strength: float = 6.0, memory: float = 200.0) -> None:
        self.means = [min(max(prior, _LEAST), _MOST) for prior in priors]
        self.counts = [strength] * len(priors)
        self._memory = memory

    def update(self, evidence: int, accepted: bool) -> None:
        """One outcome of a class."""
        count = self.counts[evidence] = min(self.counts[evidence] + 1.0, self._memory)
        mean = self.means[evidence] + (accepted - self.means[evidence]) / count
        self.means[evidence] = min(max(mean, _LEAST), _MOST)


class ModelEvidence:
    """Classes of evidence of a self-draft's tokens, all but the last by `acceptance_bin` of their probability.

    Its first choices, those of them that a free draft had proposed too, its other choices, and tokens that are none.
    """

    AGREED: Final = ACCEPTANCE_BINS
    OTHER: Final = 2 * ACCEPTANCE_BINS
    NOT_CHOSEN: Final = 3 * ACCEPTANCE_BINS
    NUM_CLASSES: Final = NOT_CHOSEN + 1

    @staticmethod
    def first(prob: float) -> int:
        return acceptance_bin(prob)

    @classmethod
    def agreed(cls, prob: float) -> int:
        return cls.AGREED + acceptance_bin(prob)

    @classmethod
    def other(cls, prob: float) -> int:
        return cls.OTHER + acceptance_bin(prob)

    @classmethod
    def is_first(cls, evidence: int) -> bool:
        """Whether a token was a first choice, whoever had proposed it."""
        return evidence < cls.OTHER

    @classmethod
    def priors(cls, alpha: float) -> list[float]:
        """First choices: sure ones above alpha, unsure ones below, closer the higher alpha is; alternatives: less."""
        centres = [((index + 0.5) / ACCEPTANCE_BINS) ** 0.5 for index in range(ACCEPTANCE_BINS)]
        first = [alpha * (centre * (2 - alpha) + (1 - centre) * 0.8) for centre in centres]
        agreed = [1 - 0.4 * (1 - prior) for prior in first]
        return [*first, *agreed, *(0.7 * (1 - alpha) * centre + 0.3 * centre for centre in centres), 0.02]


class FreeEvidence:
    """Classes of evidence of a free draft's tokens: its own, and as many for where a model has chosen another token.

    There a match says less, the shorter it is. That is learnt, so priors only have to be high enough to be tried.
    """

    @staticmethod
    def priors(class_priors: Sequence[float]) -> list[float]:
        return [*class_priors, *(prior**3 for prior in class_priors)]
