"""`KeepExploring`: an entropy bonus that rises while an agent repeats itself and falls back when it does not.

Knows nothing of policies or evaluations. An agent that has settled asks for the same policy again and again, which
tells a search nothing; in an update whose episodes are all alike there is nothing to learn from either.
"""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

_FEWEST_DIFFERENT, _MOST_DIFFERENT = 0.6, 0.9
_RISE, _FALL = 1.5, 0.8
_HIGHEST = 1.0


class KeepExploring(BaseCallback):
    """For PPO and A2C; looks at the policies of the episodes of each update. Does nothing for other agents."""

    def __init__(self) -> None:
        super().__init__()
        self._policies: list[str] = []
        self._lowest: float | None = None

    def _on_step(self) -> bool:
        for is_done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if is_done:
                self._policies.append(info["policy"])
        return True

    def _on_rollout_end(self) -> None:
        agent: Any = self.model
        if self._policies and isinstance(getattr(agent, "ent_coef", None), float):
            if self._lowest is None:
                self._lowest = agent.ent_coef
            different = len(set(self._policies)) / len(self._policies)
            factor = _RISE if different < _FEWEST_DIFFERENT else _FALL if different > _MOST_DIFFERENT else 1.0
            agent.ent_coef = min(max(agent.ent_coef * factor, self._lowest), _HIGHEST)
        self._policies = []
