"""What a study's record says of policies and cascades.

Knows nothing of Optuna, models or time.
"""

from __future__ import annotations

import hashlib
from typing import Any

from autodraft.cascade import Cascade
from autodraft.policy import DraftPolicy
from autodraft.policy_text import encode_policy
from autodraft.search.codec import describe
from autodraft.search.proposals import Proposal


def digest_of(text: str) -> str:
    """Twelve hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def policy_attributes(policy: DraftPolicy) -> dict[str, Any]:
    """What a trial says of its policy."""
    return {
        "policy": encode_policy(policy),
        "digest": policy.digest,
        "num_skipped": policy.num_skipped,
        "mean_bits": policy.mean_bits,
    }


def proposal_attributes(proposal: Proposal) -> dict[str, Any]:
    """What a trial says of a proposed draft."""
    attributes = {"origin": proposal.origin, **policy_attributes(proposal.policy)}
    return attributes if proposal.weights is None else {**attributes, "weights": proposal.weights.file}


def cascade_attributes(cascade: Cascade) -> dict[str, Any]:
    """What a trial says of its cascade."""
    attributes: dict[str, Any] = {"cascade": describe(cascade), "cascade_json": cascade.model_dump_json()}
    return {**policy_attributes(cascade.policies[0]), **attributes} if cascade.policies else attributes


def cascade_params(cascade: Cascade) -> dict[str, int]:
    """The settings of a cascade as integers, for the study's plots."""
    params: dict[str, int] = {"num_drafts": len(cascade.drafts)}
    for draft in cascade.drafts:
        if draft not in cascade.models:
            params["free_tokens"] = draft.num_draft_tokens
    for model in cascade.models[:1]:
        params |= {"num_draft_tokens": model.num_draft_tokens, "stop_percent": round(100 * model.stop_threshold)}
    return params
