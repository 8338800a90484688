"""`Proposal` and the `Searcher` protocol: one ask/tell interface for every way to look for policies.

Knows nothing of devices, storage or time. A searcher is deterministic: built with the same seed and told the same
evaluations it asks for the same policies. That is what makes a killed search resumable: it is run again from
the start, and every evaluation that the study already has is answered from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from autodraft.evaluator import Evaluation
from autodraft.policy import DraftPolicy
from autodraft.profile_parts import WeightsFile


@dataclass(frozen=True)
class Proposal:
    """A policy to evaluate.

    Attributes:
        policy: the candidate.
        params: the point of the search space that it came from, for the study's record.
        origin: in words, what proposed it.
        token: the searcher's own handle.
        weights: refitted ones that it runs on; None: the target's own.
    """

    policy: DraftPolicy
    params: Mapping[str, int] = field(default_factory=dict)
    origin: str = ""
    token: int = -1
    weights: WeightsFile | None = None

    @property
    def key(self) -> str:
        """Names its prediction in a study."""
        own = "" if self.weights is None else f"/{self.weights.sha256[:16]}"
        return f"predicted/{self.policy.digest}{own}"


class Searcher(Protocol):
    """Contract: `ask` gives the next policy, or None when there is nothing left; each answer is told exactly once,
    before the next `ask`, with None where the evaluation failed. The same policy may be asked for twice.
    """

    name: str

    def ask(self) -> Proposal | None: ...

    def tell(self, proposal: Proposal, evaluation: Evaluation | None) -> None: ...

    def close(self) -> None:
        """Called once when nothing more will be asked, whatever the reason; frees what runs behind a searcher."""
        return None


class SequenceSearcher(Searcher):
    """Asks for given proposals in their order: seeds and the simple baselines."""

    def __init__(self, name: str, proposals: Iterable[Proposal]) -> None:
        self.name = name
        self._pending = list(proposals)[::-1]

    def ask(self) -> Proposal | None:
        return self._pending.pop() if self._pending else None

    def tell(self, proposal: Proposal, evaluation: Evaluation | None) -> None:
        """A fixed list learns nothing."""
