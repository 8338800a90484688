"""`Cascade`: the description of a decoder: which drafts propose, in which order, with which settings.

Knows nothing of weights or of how proposing works; `autodraft.decoding` turns a cascade into drafters,
`autodraft.profile` stores it, the search composes it. Values only: frozen, comparable, JSON.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema, model_validator

from autodraft.errors import PolicyError
from autodraft.policy import DraftPolicy


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


class SelfDraft(_Value):
    """Draft with a compressed copy of the target: a chain (`branching` 1) or a tree."""

    kind: Literal["self-draft"] = "self-draft"
    policy: PolicyField
    num_draft_tokens: int = Field(default=4, ge=1, le=64, description="deepest drafted position of a cycle")
    stop_threshold: float = Field(
        default=0.0, ge=0.0, le=1.0, description="the chain ends after a token of lower draft probability (kept)"
    )
    branching: int = Field(default=1, ge=1, le=8, description="children per expanded node; 1 is a chain")
    max_nodes: int = Field(default=16, ge=1, le=64, description="drafted nodes of a tree at most (branching above 1)")


Draft = Annotated[PromptLookup | SelfDraft, Field(discriminator="kind")]


class Cascade(_Value):
    """Drafts in the order in which they are asked: the first one that has a proposal is used in that cycle.

    No drafts at all means autoregressive decoding.
    """

    drafts: tuple[Draft, ...] = ()

    @property
    def policies(self) -> tuple[DraftPolicy, ...]:
        """The compression policies of its self-drafts."""
        return tuple(draft.policy for draft in self.drafts if isinstance(draft, SelfDraft))

    @property
    def is_autoregressive(self) -> bool:
        return not self.drafts


AUTOREGRESSIVE = Cascade()
