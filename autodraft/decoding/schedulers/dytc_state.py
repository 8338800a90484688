"""What `dytc` knows: of each model, of recent cycles, and of the cycle that it is in.

Knows nothing of how it decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from autodraft.decoding.acceptance import Calibration, MovingAcceptance
from autodraft.decoding.growth import NO_DRAFT, Growth
from autodraft.decoding.schedulers.free_growth import FreeGrowth
from autodraft.decoding.schedulers.frontier import Frontier, Place
from autodraft.decoding.workbench import Workbench

_RATE_MEMORY = 0.97
_COST_MEMORY = 0.9
_OTHERS_MEMORY = 0.95


@dataclass
class Drafted:
    """What a model did in one cycle.

    Attributes:
        steps: target steps that it took.
        tokens: tokens that came of its own choices, one after another.
        reach: of the nodes that it went on from, in total.
        others: expected tokens of its other choices there beyond their price.
    """

    steps: float = 0.0
    tokens: int = 0
    reach: float = 0.0
    others: float = 0.0


@dataclass
class KnownModel:
    """What is known of one self-draft.

    Attributes:
        alpha: how often its first choices are accepted.
        calibration: the same by class of evidence.
        agreement: by free draft, how often the model would choose that draft's token.
        others: expected tokens of its other choices beyond their price, for each node that it goes on from.
        cost_per_token: target steps per token of its chains, inner verification included; 0: not known yet.
        idle: cycles since it drafted.
    """

    alpha: MovingAcceptance
    calibration: Calibration
    agreement: dict[int, Calibration]
    others: float
    cost_per_token: float = 0.0
    idle: int = 0

    @property
    def gain(self) -> float:
        """Expected tokens of going on from a node that is accepted: the first choice, and what the others add."""
        return self.alpha.alpha + self.others

    def observe(self, first_choices: Sequence[bool], drafted: Drafted | None) -> None:
        """A cycle's end: which of its first choices were accepted, and what it did, if anything."""
        self.alpha.update(first_choices)
        if drafted is None:
            self.idle += 1
            return
        self.idle = 0
        self.others += (1 - _OTHERS_MEMORY) * (drafted.others / drafted.reach - self.others)
        cost = drafted.steps / drafted.tokens
        known = self.cost_per_token or cost
        self.cost_per_token = known + (1 - _COST_MEMORY) * (cost - known)


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
    drafted: dict[int, Drafted] = field(default_factory=dict)  # by model
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
