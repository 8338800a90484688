"""Cascades as short strings, for attributes of a study.

Knows nothing of Optuna.
"""

from __future__ import annotations

import hashlib

from autodraft.cascade import Cascade, Draft, PromptLookup, RoutedDraft, SelfDraft, SuffixAutomaton, TokenRecycling
from autodraft.policy import FULL_BITS
from autodraft.policy_text import encode_policy


def cascade_digest(cascade: Cascade) -> str:
    """Sixteen hexadecimal digits: equal cascades, equal digests."""
    return hashlib.sha256(cascade.model_dump_json().encode()).hexdigest()[:16]


def describe(cascade: Cascade) -> str:
    """A cascade in one line."""
    if cascade.is_autoregressive:
        return "autoregressive"
    settings = cascade.scheduler.model_dump(exclude={"kind"}, exclude_defaults=True)
    details = "".join(f" {name}={value:g}" for name, value in settings.items())
    return f"{cascade.scheduler.kind}{details}: " + " -> ".join(describe_draft(draft) for draft in cascade.drafts)


def describe_draft(draft: Draft) -> str:
    """A draft in a few words."""
    match draft:
        case PromptLookup():
            return f"prompt-lookup(n={draft.num_draft_tokens}, ngram {draft.max_ngram}..{draft.min_ngram})"
        case SuffixAutomaton():
            return f"suffix-automaton(n={draft.num_draft_tokens}, match>={draft.min_match})"
        case TokenRecycling():
            return f"token-recycling(n={draft.num_draft_tokens}, {draft.num_successors} successors)"
        case SelfDraft():
            stop = f", stop<{draft.stop_threshold:g}" if draft.stop_threshold else ""
            own = "" if draft.weights is None else f", {draft.weights.file}"
            return f"self-draft(n={draft.num_draft_tokens}{stop}{own}: {encode_policy(draft.policy)})"
        case RoutedDraft():
            bits = "" if draft.bits == FULL_BITS else f", {draft.bits} bits"
            return f"routed-draft(n={draft.num_draft_tokens}, {draft.router.file}{bits})"
