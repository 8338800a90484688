"""`simulate`: the decode loop over a world: grow, verify, observe.

Knows nothing of particular schedulers; it runs the product's own, made as the decoder makes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autodraft.decoding.schedulers import TreeScheduler, make_scheduler
from autodraft.simulation.schedules import Schedule
from autodraft.simulation.truth import Truth
from autodraft.simulation.workbench import SimulatedWorkbench
from autodraft.simulation.worlds import World


@dataclass(frozen=True)
class Simulation:
    """What a schedule achieved in a world; all of it predicted, times in target steps.

    Attributes:
        histogram: committed tokens of a cycle, bonus included -> number of cycles.
        steps: everything together.
        draft_steps: in drafts' forwards.
        scheduling_steps: in what the world says that a cycle takes besides forwards.
    """

    histogram: Mapping[int, int]
    steps: float
    draft_steps: float
    scheduling_steps: float

    @property
    def num_tokens(self) -> int:
        return sum(tokens * cycles for tokens, cycles in self.histogram.items())

    @property
    def num_cycles(self) -> int:
        return sum(self.histogram.values())

    @property
    def speedup(self) -> float:
        """Over autoregressive decoding, which commits one token per target step."""
        return self.num_tokens / self.steps

    @property
    def tokens_per_cycle(self) -> float:
        return self.num_tokens / self.num_cycles

    @property
    def shares(self) -> dict[str, float]:
        """Of the time: in drafts, in verification, in scheduling."""
        verify_steps = self.steps - self.draft_steps - self.scheduling_steps
        parts = {"draft": self.draft_steps, "verify": verify_steps, "scheduling": self.scheduling_steps}
        return {name: steps / self.steps for name, steps in parts.items()}

    def to_json(self) -> dict[str, Any]:
        """For reports; the histogram in order."""
        return {
            "fidelity": "predicted",
            "speedup": self.speedup,
            "tokens_per_cycle": self.tokens_per_cycle,
            "num_tokens": self.num_tokens,
            "num_cycles": self.num_cycles,
            "shares": self.shares,
            "histogram": {str(tokens): cycles for tokens, cycles in sorted(self.histogram.items())},
        }


def simulate(
    world: World,
    schedule: Schedule,
    *,
    num_tokens: int = 20_000,
    truth: Truth | int = 0,
    guarded: bool = False,
    scheduler: TreeScheduler | None = None,
) -> Simulation:
    """Decode the world's true text until at least `num_tokens` tokens are committed.

    Args:
        world: target and drafts.
        schedule: the drafts that are used, and the scheduler.
        num_tokens: length of the text.
        truth: of this world, or a seed for one.
        guarded: whether a scheduler with a fixed plan stops drafting while it does not pay.
        scheduler: one of your own in place of the one that the schedule describes.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens is {num_tokens}; there is nothing to decode")
    bench = SimulatedWorkbench(world, schedule, truth if isinstance(truth, Truth) else Truth(world, truth))
    if scheduler is None:
        scheduler = make_scheduler(schedule.scheduler, bench.levels, guarded=guarded)
    histogram: Counter[int] = Counter()
    position, scheduling_steps = 0, 0.0
    while position < num_tokens:
        started = bench.clock
        bench.begin(position)
        scheduler.grow(bench)
        accepted = bench.verify(bench.growth.kept_nodes())
        if schedule.entries:
            bench.clock += world.scheduling_cost
            scheduling_steps += world.scheduling_cost
        scheduler.observe(bench, accepted, (bench.clock - started) / bench.times.target_s)
        histogram[len(accepted)] += 1
        position += len(accepted)
    return Simulation(histogram, bench.clock, bench.draft_steps, scheduling_steps)
