"""`AgentSearcher`: an agent that learns, behind the interface of all searchers.

Knows nothing of studies or time. First come a few policies that follow from a price of time alone, for a controller to
start from the best of them; then every episode of the agent ends with a question of the search, whose answer is its
reward. Agents learn on without end: how much is asked is the search's decision, so a search of 100 policies is the
beginning of one of 1,000.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from autodraft.envs import JointPolicyEnv
from autodraft.evaluator import Evaluation
from autodraft.policies.choices import Budgets
from autodraft.policies.features import PolicyFeatures
from autodraft.search.agents.algorithms import HIERARCHICAL, AgentSettings, best_price, make_agent
from autodraft.search.agents.exploring import KeepExploring
from autodraft.search.agents.hierarchical import ControllerPair
from autodraft.search.agents.inverted import InvertedEvaluator
from autodraft.search.proposals import Proposal, Searcher
from autodraft.search.space import RawSpace

_WITHOUT_END = sys.maxsize // 2


class AgentSearcher(Searcher):
    """Asks what a learning agent asks.

    Args:
        name: of the agent, one of `AGENTS`.
        features: of the target.
        seed: of the agent.
        settings: of the agent; None takes the defaults.
        protect_ends: whether the first and last block are kept.
        channels: whether channels of a sub-layer may be at different bits.
        budgets: that every policy keeps.
    """

    def __init__(
        self,
        name: str,
        features: PolicyFeatures,
        seed: int,
        settings: AgentSettings | None = None,
        *,
        protect_ends: bool = False,
        channels: bool = False,
        budgets: Budgets | None = None,
    ) -> None:
        self.name = name
        self._seed, self._settings = seed, settings or AgentSettings()
        self._arguments: dict[str, Any] = {
            "protect_ends": protect_ends,
            "channels": channels,
            **asdict(budgets or Budgets()),
        }
        self._raw = RawSpace(features)
        self._evaluator = InvertedEvaluator(features, self._learn)

    def ask(self) -> Proposal | None:
        policy = self._evaluator.next_question()
        return None if policy is None else Proposal(policy, self._raw.encode(policy), self.name)

    def tell(self, proposal: Proposal, evaluation: Evaluation | None) -> None:
        self._evaluator.answer(evaluation)

    def close(self) -> None:
        self._evaluator.close()

    def _learn(self, evaluator: InvertedEvaluator) -> None:
        env = JointPolicyEnv(evaluator, shaping=self._settings.shaping, **self._arguments)
        price = best_price(env, evaluator)
        if self.name == HIERARCHICAL:
            pair = ControllerPair(evaluator, self._settings, self._seed, price, **self._arguments)
            while True:
                pair.learn_in_turns()
        agent = make_agent(self.name, env, self._settings, self._seed, price)
        agent.learn(_WITHOUT_END, callback=KeepExploring())
