"""What a finished policy is worth, and how steps before the end may be rewarded without changing that.

Knows nothing of Gymnasium. A reward is the natural logarithm of a speedup, so that the rewards of an episode add up.
Shaping is potential-based (Ng, Harada & Russell 1999): a step adds the potential of the state it leads to minus that of
the state it came from, and the finished policy has potential 0. The sum over an episode is then the reward minus the
potential of the empty policy, which no action can change: the best policy stays the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from autodraft.evaluator import Evaluation, Evaluator, TrialFailed, chain_of
from autodraft.policies.proxy import proxy_speedup
from autodraft.policy import DraftPolicy

RewardFidelity = Literal["predicted", "measured"]
Shaping = Literal["none", "proxy", "predicted"]

LOWEST_SPEEDUP = 0.05
FAILURE_REWARD = math.log(LOWEST_SPEEDUP)
"""Reward of a policy that cannot run, and the lowest there is."""


@dataclass(frozen=True)
class Outcome:
    """A finished policy's reward, and what it is based on; no evaluation where the policy cannot run."""

    reward: float
    evaluation: Evaluation | None


def log_speedup(speedup: float) -> float:
    """The reward of a speedup, no less than that of a failure."""
    return math.log(max(speedup, LOWEST_SPEEDUP))


class Judge:
    """Evaluates finished policies.

    Args:
        evaluator: calibrated.
        fidelity: of the reward; a measured one belongs to a chain with the policy at its best predicted length.
        predicted_episodes: with measured rewards, so many policies are only predicted before measuring begins.
    """

    def __init__(self, evaluator: Evaluator, fidelity: RewardFidelity, predicted_episodes: int = 0) -> None:
        self._evaluator, self._fidelity, self._predictions_left = evaluator, fidelity, predicted_episodes

    def outcome(self, policy: DraftPolicy) -> Outcome:
        """Reward and evaluation of a finished policy."""
        try:
            evaluation = self._evaluator.predict(policy)
            if self._fidelity == "measured" and self._predictions_left <= 0:
                evaluation = self._evaluator.measure(chain_of(policy, evaluation))
        except TrialFailed:
            return Outcome(FAILURE_REWARD, None)
        finally:
            self._predictions_left -= 1
        return Outcome(log_speedup(evaluation.speedup), evaluation)


def potential(shaping: Shaping, evaluator: Evaluator) -> Callable[[DraftPolicy], float] | None:
    """Potential of a policy whose open decisions are those of the target: its log speedup by F0 or F1."""
    if shaping == "none":
        return None
    if shaping == "proxy":
        return lambda policy: log_speedup(proxy_speedup(evaluator.features, policy))
    judge = Judge(evaluator, "predicted")
    return lambda policy: judge.outcome(policy).reward
