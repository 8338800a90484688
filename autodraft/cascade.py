"""`Cascade`: the description of a decoder: which drafts propose, in which order, with which settings.

Knows nothing of weights or of how proposing works; `autodraft.decoding` turns a cascade into drafters,
`autodraft.profile` stores it, the search composes it. Values only: frozen, comparable, JSON.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema, model_validator

from autodraft.errors import PolicyError
from autodraft.policy import DraftPolicy
from autodraft.profile_parts import WeightsFile


def _policy_from(value: Any) -> DraftPolicy:
    if isinstance(value, DraftPolicy):
        return value
    try:
        return DraftPolicy.from_json(value)
    except PolicyError as error:
        raise ValueError(str(error)) from error


_SHARES_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "share of the channels at each bit-width, in sixteenths; what is missing has 0 bits",
    "properties": {bits: {"type": "number", "exclusiveMinimum": 0, "maximum": 1} for bits in ("16", "8", "4")},
    "additionalProperties": False,
}
_POLICY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "blocks": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {"attention": _SHARES_SCHEMA, "mlp": _SHARES_SCHEMA},
                "required": ["attention", "mlp"],
                "additionalProperties": False,
            },
        },
        "head_bits": {"enum": [4, 8, 16]},
    },
    "required": ["blocks", "head_bits"],
    "additionalProperties": False,
}

PolicyField = Annotated[
    DraftPolicy,
    BeforeValidator(_policy_from),
    PlainSerializer(DraftPolicy.to_json),
    WithJsonSchema(_POLICY_SCHEMA),
]

MOST_NODES = 128
"""Drafted nodes of a tree."""


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class PromptLookup(_Value):
    """Draft by copying what followed the longest match of the last tokens in prompt and output; costs nothing."""

    kind: Literal["prompt-lookup"] = "prompt-lookup"
    num_draft_tokens: int = Field(default=8, ge=1, le=64, description="tokens copied after a match")
    max_ngram: int = Field(default=3, ge=1, le=16, description="longest suffix that is looked up")
    min_ngram: int = Field(default=1, ge=1, le=16, description="shortest suffix that still counts as a match")

    @model_validator(mode="after")
    def _ordered(self) -> PromptLookup:
        if self.min_ngram > self.max_ngram:
            raise ValueError(f"min_ngram {self.min_ngram} is above max_ngram {self.max_ngram}")
        return self


class SuffixAutomaton(_Value):
    """Draft by copying what followed the longest earlier occurrence of the text's end, however long that is.

    The matching of SAM-Decoding (arXiv 2411.10666): amortised constant time per token whatever the context's length.
    """

    kind: Literal["suffix-automaton"] = "suffix-automaton"
    num_draft_tokens: int = Field(default=16, ge=1, le=64, description="tokens copied after a match")
    min_match: int = Field(default=1, ge=1, le=64, description="shortest match that counts")


class TokenRecycling(_Value):
    """Draft a tree of the tokens that the target itself last found most probable after each token.

    Token Recycling (arXiv 2408.08696): a table of successors, refreshed by every verification pass.
    """

    kind: Literal["token-recycling"] = "token-recycling"
    num_draft_tokens: int = Field(default=6, ge=1, le=64, description="deepest drafted position of a cycle")
    num_successors: int = Field(default=8, ge=1, le=16, description="successors remembered for each token")


class SelfDraft(_Value):
    """Draft with a compressed copy of the target, or with weights of its own where the copy was refitted."""

    kind: Literal["self-draft"] = "self-draft"
    policy: PolicyField
    weights: WeightsFile | None = Field(
        default=None, description="weights fitted or trained for what the policy keeps; null: the target's own"
    )
    num_draft_tokens: int = Field(default=4, ge=1, le=64, description="deepest drafted position of a cycle")
    stop_threshold: float = Field(
        default=0.0, ge=0.0, le=1.0, description="drafting ends after a token of lower draft probability (kept)"
    )


class RoutedDraft(_Value):
    """Draft with the target's blocks, or with refitted ones, of which a trained router picks some for every token.

    Radial networks (Dotzel et al., arXiv 2404.04900); `autodraft train-router` makes router and blocks.
    """

    kind: Literal["routed-draft"] = "routed-draft"
    router: WeightsFile = Field(description="the router's weights")
    weights: WeightsFile | None = Field(
        default=None, description="weights of all blocks, refitted together with the router; null: the target's own"
    )
    bits: Literal[4, 8, 16] = Field(default=16, description="bit-width of the blocks and of the head")
    passed_keys: Literal["masked", "projected"] = Field(
        default="masked",
        description="keys of a block that a drafted token passed by: hidden from later drafted tokens in that block, or"
        " made from the stream that passes",
    )
    num_draft_tokens: int = Field(default=4, ge=1, le=64, description="deepest drafted position of a cycle")
    stop_threshold: float = Field(
        default=0.0, ge=0.0, le=1.0, description="drafting ends after a token of lower draft probability (kept)"
    )


Draft = Annotated[
    PromptLookup | SuffixAutomaton | TokenRecycling | SelfDraft | RoutedDraft, Field(discriminator="kind")
]


ModelDraft = SelfDraft | RoutedDraft
"""A draft that takes forward passes; the others cost nothing."""


class Chain(_Value):
    """The first draft that has a proposal drafts a chain; the others are not asked in that cycle."""

    kind: Literal["chain"] = "chain"


class StaticTree(_Value):
    """The first draft that has a proposal drafts a tree whose shape does not depend on what was accepted before."""

    kind: Literal["static-tree"] = "static-tree"
    branching: int = Field(default=2, ge=1, le=16, description="children per expanded node")
    max_nodes: int = Field(default=16, ge=1, le=MOST_NODES, description="drafted nodes at most")


class Vertical(_Value):
    """Each draft is itself sped up by the drafts below it, which it verifies (CS-Drafting, arXiv 2312.11462)."""

    kind: Literal["vertical"] = "vertical"


class Horizontal(_Value):
    """Each draft continues the chain of the one before it, cheaper drafts later (CS-Drafting, arXiv 2312.11462)."""

    kind: Literal["horizontal"] = "horizontal"


class VerticalHorizontal(_Value):
    """Both: the drafts continue each other's chain, and each is sped up by those below it (CS-Drafting)."""

    kind: Literal["vertical+horizontal"] = "vertical+horizontal"


class DyTC(_Value):
    """Dynamic tree cascade: draft, length and shape by estimated acceptance and measured time (arXiv 2510.26843)."""

    kind: Literal["dytc"] = "dytc"
    ema_weight: float = Field(default=0.7, ge=0, lt=1, description="weight of the past in the acceptance averages")
    window: int = Field(default=20, ge=1, le=1000, description="recent outcomes that an average is renewed from")
    siblings: int = Field(default=3, ge=1, le=8, description="alternatives of a self-draft kept per position")
    max_depth: int = Field(default=24, ge=1, le=64, description="deepest drafted position of a cycle")
    max_nodes: int = Field(default=32, ge=1, le=MOST_NODES, description="drafted nodes at most")


Scheduler = Annotated[
    Chain | StaticTree | Vertical | Horizontal | VerticalHorizontal | DyTC, Field(discriminator="kind")
]


class Cascade(_Value):
    """Drafts, and the scheduler that decides which of them proposes what.

    A `chain` or a `static-tree` asks them in their order; in every other cascade the most accurate ones come first.

    No drafts at all means autoregressive decoding.
    """

    drafts: tuple[Draft, ...] = ()
    scheduler: Scheduler = Chain()

    @property
    def policies(self) -> tuple[DraftPolicy, ...]:
        """The compression policies of its self-drafts."""
        return tuple(draft.policy for draft in self.drafts if isinstance(draft, SelfDraft))

    @property
    def models(self) -> tuple[ModelDraft, ...]:
        """Its drafts that take forward passes."""
        return tuple(draft for draft in self.drafts if isinstance(draft, ModelDraft))

    @property
    def is_autoregressive(self) -> bool:
        return not self.drafts


_DYNAMIC_LENGTH = 16


def unbounded(draft: ModelDraft) -> ModelDraft:
    """A draft for a scheduler that decides by itself how far it goes."""
    return draft.model_copy(update={"num_draft_tokens": _DYNAMIC_LENGTH, "stop_threshold": 0.0})


AUTOREGRESSIVE = Cascade()
