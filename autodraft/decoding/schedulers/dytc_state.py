"""What `dytc` knows: of each model, of recent cycles, and of the cycle that it is in.

Knows nothing of how it decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from autodraft.decoding.acceptance import Calibration, MovingAcceptance
from autodraft.decoding.growth import NO_DRAFT, Growth
from autodraft.decoding.schedulers.free_growth import FreeGrowth
from autodraft.decoding.schedulers.frontier import Frontier, Place
from autodraft.decoding.workbench import Workbench

_RATE_MEMORY = 0.97


@dataclass
class KnownModel:
    """What is known of one self-draft."""

    alpha: MovingAcceptance
    calibration: Calibration
    agreement: dict[int, Calibration]  # by free draft: how often the model would choose that draft's token
    cost_per_token: float = 0.0  # target steps per token of its chains, inner verification included; 0: not known yet
    idle: int = 0  # cycles since it drafted


class Account:
    """Tokens and target steps of the cycles of one kind, the latest weighing most.

    Attributes:
        rate: tokens per target step: what time is worth.
    """

    def __init__(self, rate: float) -> None:
        self._tokens, self._steps = 10.0 * rate, 10.0
        self.rate = max(rate, 1.0)

    def add(self, tokens: int, steps: float) -> None:
        self._tokens = _RATE_MEMORY * self._tokens + tokens
        self._steps = _RATE_MEMORY * self._steps + steps
        self.rate = max(self._tokens / self._steps, 1.0)


@dataclass
class Cycle:
    """The state of one cycle.

    Attributes:
        account: of cycles like this one; prices the verification of nodes.
        unknown: of cycles in which free drafts do not know how to go on; prices the models' time.
    """

    bench: Workbench
    account: Account
    unknown: Account
    frontier: Frontier
    free: FreeGrowth
    reviewed: set[int] = field(default_factory=set)  # nodes from which a model has gone on
    drafted: dict[int, tuple[float, int]] = field(default_factory=dict)  # model -> (target steps, tokens)
    last_model: int = NO_DRAFT

    @property
    def growth(self) -> Growth:
        return self.bench.growth

    @property
    def rate(self) -> float:
        """What time is worth in this cycle."""
        return self.account.rate

    @property
    def model_rate(self) -> float:
        """What a model's time is worth: it adds tokens that the free drafts do not know, here or further on."""
        return self.unknown.rate

    def node_price(self) -> float:
        """Tokens that verifying one more node must gain."""
        return self.account.rate * self.bench.times.marginal_cost(len(self.bench.growth))

    def once(self, draft: int) -> float:
        """Target steps that deciding for a model and calling it take, whatever it does then."""
        return self.bench.times.decision_cost + self.bench.times.chain_cost(draft)[0]

    def review_cost(self, draft: int, proposed: int) -> float:
        """Target steps of a review of so many tokens, beyond those that a chain takes however short it is."""
        start, each = self.bench.times.chain_cost(draft)
        return max(self.bench.times.cost(draft, 1 + proposed) - start, each)


@dataclass(frozen=True)
class Step:
    """What a model is to do next.

    Attributes:
        draft: the model.
        leaf: where it goes on.
        most: tokens that it is to draft there at most.
        beside: other places that it goes on from in the same forward.
        proposed: nodes of free drafts after `leaf` that are worth its review; None: not looked at yet.
    """

    draft: int
    leaf: Place
    most: int
    beside: list[Place]
    proposed: list[int] | None = None
