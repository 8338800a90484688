"""Drafting without a profile: the policy is looked for while decoding (SWIFT; CLaSp and KnapSpec beside it)."""

from autodraft.decoding.on_the_fly.budget import TimeBudget
from autodraft.decoding.on_the_fly.drafter import Found, OnTheFlyDrafter
from autodraft.decoding.on_the_fly.knapsack import Path, best_paths, pareto_front
from autodraft.decoding.on_the_fly.matchness import Matchness, Window, measure_matchness
from autodraft.decoding.on_the_fly.optimizer import DraftOptimizer, Score, predicted_score
from autodraft.decoding.on_the_fly.proposals import SwiftProposals, every_second_block, first_draft
from autodraft.decoding.on_the_fly.recent_noise import RecentNoise
from autodraft.decoding.on_the_fly.settings import OnTheFlyMode, OnTheFlySettings

__all__ = [
    "DraftOptimizer",
    "Found",
    "Matchness",
    "OnTheFlyDrafter",
    "OnTheFlyMode",
    "OnTheFlySettings",
    "Path",
    "RecentNoise",
    "Score",
    "SwiftProposals",
    "TimeBudget",
    "Window",
    "best_paths",
    "every_second_block",
    "first_draft",
    "measure_matchness",
    "pareto_front",
    "predicted_score",
]
