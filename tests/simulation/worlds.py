"""Worlds that several tests use."""

from autodraft.simulation import FreeDraft, ModelDraft, Runs, World

BOTH = World(
    verify_cost={1: 1.0, 8: 1.1, 16: 1.25, 32: 1.7},
    scheduling_cost=0.01,
    drafts=(
        ModelDraft(name="good", alpha=0.8, cost={1: 0.3, 8: 0.35, 32: 0.6}, concentration=3.0, second=0.4),
        ModelDraft(name="fast", alpha=0.6, cost={1: 0.1, 8: 0.12, 32: 0.3}, concentration=3.0, second=0.4),
        FreeDraft(name="lookup", alpha=0.35, runs=Runs(length=8), min_match=1, num_choices=3, second=0.3),
    ),
)
