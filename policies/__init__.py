"""Deciders: features of the target's sub-layers in, `DraftPolicy` out.

The deciders named here do not learn: the baselines that every search is reported against, and the seeds that it starts
from. What learns is in modules that are imported by name, since they need more: `construction` (a policy decided step
by step, and its masks), `observation`, `controller` (networks of stable-baselines3) and `rollout` (a trained controller
as a decider).
"""

from autodraft.policies.deciders import BlockInfluenceSkip, Decider, RandomPolicy, UniformBits
from autodraft.policies.features import PolicyFeatures
from autodraft.policies.knapsack import LatencyKnapsack

__all__ = [
    "BlockInfluenceSkip",
    "Decider",
    "LatencyKnapsack",
    "PolicyFeatures",
    "RandomPolicy",
    "UniformBits",
]
