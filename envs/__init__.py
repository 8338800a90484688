"""Gymnasium environments in which an agent decides a `DraftPolicy`: given an evaluator, never a checkpoint.

Importing this package registers them, so `gym.make("autodraft.envs:AutoDraft/JointPolicy-v0", evaluator=evaluator)`
needs no import before it. Every id has a `Measured` form, whose last reward is the measured speedup (F2) instead of the
predicted one (F1), and which is therefore registered as nondeterministic.
"""

from typing import Any

from gymnasium.envs.registration import register

from autodraft.envs.base import PolicyEnv
from autodraft.envs.channel_controller import ChannelControllerEnv
from autodraft.envs.continuous import ContinuousChoices
from autodraft.envs.joint_policy import JointPolicyEnv
from autodraft.envs.layer_controller import LayerControllerEnv
from autodraft.envs.one_shot import OneShotEnv
from autodraft.envs.rewards import FAILURE_REWARD

ENVIRONMENTS: dict[str, type[PolicyEnv[Any]]] = {
    "LayerController": LayerControllerEnv,
    "ChannelController": ChannelControllerEnv,
    "JointPolicy": JointPolicyEnv,
    "OneShot": OneShotEnv,
}


def _register() -> None:
    for name, environment in ENVIRONMENTS.items():
        entry_point = f"{environment.__module__}:{environment.__name__}"
        register(f"AutoDraft/{name}-v0", entry_point=entry_point)
        register(
            f"AutoDraft/{name}Measured-v0",
            entry_point=entry_point,
            nondeterministic=True,
            kwargs={"fidelity": "measured"},
        )


_register()

__all__ = [
    "ENVIRONMENTS",
    "FAILURE_REWARD",
    "ChannelControllerEnv",
    "ContinuousChoices",
    "JointPolicyEnv",
    "LayerControllerEnv",
    "OneShotEnv",
    "PolicyEnv",
]
