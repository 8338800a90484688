"""`Evaluator`: the seam between search and device, and `Evaluation`, what comes back through it.

Knows nothing of models: searchers, environments and studies see only this. A policy is *predicted* (F1:
teacher-forced agreement and the analytic formula) and a cascade is *measured* (F2: real decoding, paired with
autoregressive decoding). Every evaluation carries that tag, and only measured ones may be called a speedup.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from autodraft.cascade import Cascade, SelfDraft
from autodraft.policies.features import PolicyFeatures
from autodraft.policy import DraftPolicy
from autodraft.profile_parts import WeightsFile

Fidelity = Literal["predicted", "measured"]


class TrialFailed(Exception):
    """One candidate cannot be evaluated (no memory, no kernel); the search goes on without it."""


@dataclass(frozen=True)
class Evaluation:
    """What is known of one candidate at one fidelity.

    Attributes:
        fidelity: predicted (F1) or measured (F2).
        speedup: over autoregressive decoding of the same runtime.
        tokens_per_cycle: committed tokens per target forward, bonus included (tau).
        num_draft_tokens: drafted tokens per cycle: the best length (predicted) or the mean (measured).
        cost: one draft step over one target step (c).
        verify_cost: the verify pass over one target step (v).
        extra_bytes: memory that the drafts add to the target.
        wall_s: seconds that the evaluation took.
        alpha: accepted over drafted tokens; measured only.
        acceptance_per_draft: of each draft of the cascade, the share of its tokens that was accepted where all before
            them were; measured only.
        acceptance_by_class: of each draft, what its scheduler has learnt of it (`DraftPrior`); measured only.
        top1_agreement: its teacher-forced proxy; predicted only.
        ci_low, ci_high: confidence interval of the speedup; measured only.
        per_prompt: paired speedup of each prompt, in the evaluator's fixed order; measured only.
        stopped_early: whether the measurement ended before its last prompt, because the rival was clearly faster.
        standing: what measured cascades are ranked by, the rival's times what was measured over it beside it: a moment
            in which the machine favours speculation favours both. None: its speedup, without a rival.
        settings: suggestions for the decoder that fell out of the evaluation (stop_threshold).
    """

    fidelity: Fidelity
    speedup: float
    tokens_per_cycle: float
    num_draft_tokens: float
    cost: float
    verify_cost: float
    extra_bytes: int
    wall_s: float
    alpha: float | None = None
    acceptance_per_draft: tuple[float, ...] = ()
    acceptance_by_class: tuple[tuple[float, ...], ...] = ()
    top1_agreement: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    per_prompt: tuple[float, ...] = ()
    stopped_early: bool = False
    standing: float | None = None
    settings: tuple[tuple[str, float], ...] = ()

    @property
    def score(self) -> float:
        """What it is ranked by: its standing where it has one, else its speedup."""
        return self.speedup if self.standing is None else self.standing

    @property
    def predicted_speedup(self) -> float:
        """tau / (n * c + v) from its own figures: what the formula says, whatever the fidelity."""
        time = self.num_draft_tokens * self.cost + self.verify_cost
        return self.tokens_per_cycle / time if time > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        document = dict(self.__dict__)
        sequences = {"per_prompt": list(self.per_prompt), "acceptance_per_draft": list(self.acceptance_per_draft)}
        return {**document, **sequences, "settings": dict(self.settings)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Evaluation:
        fields = dict(document)
        fields.pop("alpha_per_draft", None)  # of studies from before `acceptance_per_draft`
        for name in ("per_prompt", "acceptance_per_draft"):
            fields[name] = tuple(fields.get(name, ()))
        fields["acceptance_by_class"] = tuple(map(tuple, fields.get("acceptance_by_class", ())))
        fields["settings"] = tuple(sorted(fields.get("settings", {}).items()))
        return cls(**fields)


@dataclass(frozen=True)
class Rival:
    """The best cascade so far, beside which others are measured, and its standing (`Evaluation.score`)."""

    cascade: Cascade
    standing: float


class Evaluator(Protocol):
    """Evaluates candidates for one target on one device.

    Contract: `calibrate` is called once before anything else; its return value may be stored and given back to a
    later evaluator for the same target and device, which then orders candidates identically. `predict` and
    `measure` raise `TrialFailed` for a candidate that cannot run, and nothing they do changes a later result
    beyond timing noise and what schedulers expect of drafts to begin with. `identity` is equal exactly where
    evaluations may be shared.
    """

    @property
    def identity(self) -> Mapping[str, str]:
        """What evaluations depend on: model, device, calibration data, settings."""
        ...

    @property
    def features(self) -> PolicyFeatures:
        """F0: proxies and latencies; available after `calibrate`."""
        ...

    def calibrate(self, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Measure F0 (or restore it from `state`) and prepare F1; the state as JSON."""
        ...

    def predict(self, policy: DraftPolicy, weights: WeightsFile | None = None) -> Evaluation:
        """F1 of a policy as a chain draft at its best draft length; on refitted `weights`, or the target's own."""
        ...

    def measure(self, cascade: Cascade, rival: Rival | None = None) -> Evaluation:
        """F2 of a cascade: paired with autoregressive decoding and the rival, until it clearly loses to that."""
        ...

    def compare(self, cascades: Mapping[str, Cascade], seconds: float) -> dict[str, Evaluation]:
        """F2 of several cascades in one session on the same prompts, within about `seconds`."""
        ...


def chain_of(policy: DraftPolicy, evaluation: Evaluation, longest: int = 64) -> Cascade:
    """The cascade that a prediction speaks of: one chain of its best length and stop threshold."""
    return Cascade(drafts=(draft_of(policy, evaluation, longest),))


def draft_of(
    policy: DraftPolicy, evaluation: Evaluation, longest: int = 64, weights: WeightsFile | None = None
) -> SelfDraft:
    """The draft of that chain, on the weights that the prediction was made with."""
    settings = dict(evaluation.settings)
    length = min(max(round(evaluation.num_draft_tokens), 1), longest)
    length = int(settings.get("num_draft_tokens", length))
    threshold = settings.get("stop_threshold", 0.0)
    return SelfDraft(policy=policy, weights=weights, num_draft_tokens=length, stop_threshold=threshold)
