"""`World`: what a simulation assumes of a target and its drafts: acceptance, cost and verify-cost curves.

Knows nothing of how they are simulated. Values only, read from configs/simulate. Costs are in target steps (the
target's forward over one token) and are given as points over the number of query tokens.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0, le=1)]
Curve = Annotated[
    dict[Annotated[int, Field(ge=1)], Annotated[float, Field(gt=0)]],
    Field(min_length=1, description="number of query tokens -> target steps; straight in between"),
]


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Phase(_Value):
    """A stretch of text in which a draft has another acceptance than elsewhere."""

    tokens: int = Field(ge=1, description="length of the stretch")
    alpha: Probability


class Runs(_Value):
    """Matches that come in runs: a Markov chain over positions, in a run or in a gap between runs."""

    length: float = Field(ge=1, description="mean length of a run, in tokens")
    alpha: Probability = Field(default=0.95, description="acceptance in a run")
    gap_alpha: Probability = Field(default=0.05, description="acceptance in a gap")


class _SyntheticDraft(_Value):
    name: str = Field(min_length=1)
    alpha: Probability = Field(description="how often its first choice is the token of its reference, over all")
    reference: Literal["target", "above"] = Field(
        default="target", description="what alpha is about: the target's token, or the choice of the draft listed above"
    )
    second: float = Field(default=0.0, ge=0, lt=1, description="share of the misses that the next choice catches")
    num_draft_tokens: int = Field(
        default=4, ge=1, le=64, description="longest draft, where a scheduler does not decide"
    )
    phases: tuple[Phase, ...] = Field(default=(), description="stretches that follow each other over and over")

    @property
    def mean_alpha(self) -> float:
        """Acceptance over all phases."""
        if not self.phases:
            return self.alpha
        return sum(phase.tokens * phase.alpha for phase in self.phases) / sum(phase.tokens for phase in self.phases)


class ModelDraft(_SyntheticDraft):
    """A draft that runs forward passes."""

    kind: Literal["model"] = "model"
    cost: Curve
    stop_threshold: Probability = Field(default=0.0, description="drafting ends after a token of lower probability")
    concentration: float | None = Field(
        default=None,
        gt=0,
        description="the acceptance of each token comes from Beta(alpha * this, (1 - alpha) * this) and is the"
        " probability that the draft reports; null: it is the same for all tokens",
    )


class FreeDraft(_SyntheticDraft):
    """A draft without a model. The evidence with a token is the number of its guesses before that were right."""

    kind: Literal["free"] = "free"
    runs: Runs | None = None
    num_choices: int = Field(default=1, ge=1, le=16, description="continuations that it has at most")
    longest_match: int = Field(default=7, ge=0, le=64, description="matches longer than this tell no more")
    min_match: int = Field(default=0, ge=0, description="it proposes nothing after a shorter match")

    @model_validator(mode="after")
    def _possible(self) -> FreeDraft:
        if self.runs is not None and self.phases:
            raise ValueError("a draft has runs or phases, not both")
        if self.runs is not None and not self.runs.gap_alpha < self.alpha < self.runs.alpha:
            raise ValueError(f"alpha {self.alpha} is not between the acceptance in a gap and in a run")
        if self.min_match > self.longest_match:
            raise ValueError(f"min_match {self.min_match} is above longest_match {self.longest_match}")
        return self


SyntheticDraft = Annotated[ModelDraft | FreeDraft, Field(discriminator="kind")]


class Ladder(_Value):
    """Many models from accurate to cheap: alpha in even steps, cost in even ratios."""

    count: int = Field(ge=2, le=256)
    alpha: tuple[Probability, Probability] = Field(description="of the first and of the last")
    cost: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(description="the same, one token")
    second: float = Field(default=0.0, ge=0, lt=1)
    concentration: float | None = Field(default=None, gt=0)
    num_draft_tokens: int = Field(default=4, ge=1, le=64)

    def drafts(self) -> tuple[ModelDraft, ...]:
        """The models, first to last."""
        (alpha0, alpha1), (cost0, cost1) = self.alpha, self.cost
        shares = [number / (self.count - 1) for number in range(self.count)]
        return tuple(
            ModelDraft(
                name=f"model-{number}",
                alpha=alpha0 + (alpha1 - alpha0) * share,
                cost={1: cost0 * (cost1 / cost0) ** share},
                second=self.second,
                concentration=self.concentration,
                num_draft_tokens=self.num_draft_tokens,
            )
            for number, share in enumerate(shares)
        )


class World(_Value):
    """A target and its drafts, the most accurate ones first."""

    description: str = Field(default="", description="one line")
    assumptions: tuple[str, ...] = Field(default=(), description="where the numbers come from; none is measured")
    verify_cost: Curve = Field(default={1: 1.0}, description="the target's forward, by query tokens")
    scheduling_cost: float = Field(
        default=0.0, ge=0, description="target steps of a cycle with drafts besides forwards"
    )
    ladder: Ladder | None = Field(default=None, description="models that come before `drafts`")
    drafts: tuple[SyntheticDraft, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> World:
        if not self.all_drafts:
            raise ValueError("a world has at least one draft")
        if self.all_drafts[0].reference == "above":
            raise ValueError("no draft is listed above the first one")
        if self.verify_cost.get(1) != 1.0:
            raise ValueError("verify_cost of one token is 1.0 by definition: costs are in target steps")
        return self

    @property
    def all_drafts(self) -> tuple[ModelDraft | FreeDraft, ...]:
        """The ladder's and the others, in the order of the cascade."""
        return (*(self.ladder.drafts() if self.ladder is not None else ()), *self.drafts)

    def acceptance(self, draft: int) -> float:
        """How often a draft's first choice is the target's token; the drafts' choices are independent otherwise."""
        drafts = self.all_drafts
        alpha = drafts[draft].mean_alpha
        return alpha * self.acceptance(draft - 1) if drafts[draft].reference == "above" else alpha
