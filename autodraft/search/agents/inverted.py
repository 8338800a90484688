"""`InvertedEvaluator`: an evaluator that is asked by a learner and answered from outside, one policy at a time.

Knows nothing of agents or studies. stable-baselines3 calls its environment; the search asks its searchers. To join the
two, the learner runs in a thread of its own that waits at every evaluation until the answer has come. Only one of the
two threads runs at any time, and the global random states that learners use are swapped with the thread, so that a
learner draws the same numbers whatever the evaluation did and however long it took.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from autodraft.cascade import Cascade
from autodraft.evaluator import Evaluation, Rival, TrialFailed
from autodraft.policies.features import PolicyFeatures
from autodraft.policy import DraftPolicy
from autodraft.profile_parts import WeightsFile


class _Stopped(BaseException):
    """Ends the learner inside its evaluation; no `except Exception` of a library may swallow it."""


class InvertedEvaluator:
    """Runs a learner and turns its calls of `predict` into questions.

    Args:
        features: of the target.
        learn: given this evaluator, learns until it has enough.
    """

    def __init__(self, features: PolicyFeatures, learn: Callable[[InvertedEvaluator], None]) -> None:
        self._features, self._learn = features, learn
        self._thread: threading.Thread | None = None
        self._learners_turn, self._askers_turn = threading.Semaphore(0), threading.Semaphore(0)
        self._question: DraftPolicy | None = None
        self._answer: Evaluation | None = None
        self._error: BaseException | None = None
        self._is_closing = False
        self._state = _random_state()

    # What the search calls.
    def next_question(self) -> DraftPolicy | None:
        """Let the learner run on until it asks for a policy; None when it has finished."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="agent", daemon=True)
            self._switch_to_learner(self._thread.start)
        elif self._question is not None:
            raise RuntimeError("answer the last question first")
        elif self._thread.is_alive():
            self._switch_to_learner(self._learners_turn.release)
        if self._error is not None:
            raise self._error
        return self._question

    def answer(self, evaluation: Evaluation | None) -> None:
        """Answer the last question; None says that the policy cannot run."""
        self._question, self._answer = None, evaluation

    def close(self) -> None:
        """End the learner where it waits."""
        if self._thread is not None and self._thread.is_alive():
            self._is_closing = True
            self._switch_to_learner(self._learners_turn.release)
            self._thread.join()

    def _switch_to_learner(self, wake: Callable[[], None]) -> None:
        ours = _random_state()
        _set_random_state(self._state)
        wake()
        self._askers_turn.acquire()
        self._state = _random_state()
        _set_random_state(ours)

    def _run(self) -> None:
        try:
            self._learn(self)
        except _Stopped:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._question = None
            self._askers_turn.release()

    # What the learner's environment calls: an `Evaluator`.
    @property
    def identity(self) -> Mapping[str, str]:
        return {}

    @property
    def features(self) -> PolicyFeatures:
        return self._features

    def calibrate(self, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
        raise NotImplementedError("whoever answers has calibrated")

    def predict(self, policy: DraftPolicy, weights: WeightsFile | None = None) -> Evaluation:
        if weights is not None:
            raise NotImplementedError("an agent decides policies on the target's own weights")
        self._question = policy
        self._askers_turn.release()
        self._learners_turn.acquire()
        if self._is_closing:
            raise _Stopped
        if self._answer is None:
            raise TrialFailed("the search could not evaluate this policy")
        return self._answer

    def measure(self, cascade: Cascade, rival: Rival | None = None) -> Evaluation:
        raise NotImplementedError("a search explores by predictions")

    def compare(self, cascades: Mapping[str, Cascade], seconds: float) -> dict[str, Evaluation]:
        raise NotImplementedError("a search explores by predictions")


def _random_state() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _set_random_state(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
