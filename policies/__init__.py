"""Deciders: features of the target's sub-layers in, `DraftPolicy` out.

The deciders here do not learn. They are the baselines that every search is reported against, and the seeds
that it starts from.
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
