"""Self-speculative decoding with searched layer-skip and mixed-precision drafts.

Knows nothing itself: it names the public types and imports each one when it is first asked for, so that
`import autodraft` costs nothing and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autodraft.cascade import Cascade, PromptLookup, RoutedDraft, SelfDraft
    from autodraft.configuration import SearchJob
    from autodraft.decoding import CascadeDecoder
    from autodraft.errors import AutodraftError
    from autodraft.policy import DraftPolicy
    from autodraft.profile import DraftProfile
    from autodraft.runtime import load_model
    from autodraft.search import run_search

__version__ = "0.1.0"

__all__ = [
    "AutodraftError",
    "Cascade",
    "CascadeDecoder",
    "DraftPolicy",
    "DraftProfile",
    "PromptLookup",
    "RoutedDraft",
    "SearchJob",
    "SelfDraft",
    "__version__",
    "load_model",
    "run_search",
]

_HOME = {
    "AutodraftError": "errors",
    "Cascade": "cascade",
    "CascadeDecoder": "decoding",
    "DraftPolicy": "policy",
    "DraftProfile": "profile",
    "PromptLookup": "cascade",
    "RoutedDraft": "cascade",
    "SearchJob": "configuration",
    "SelfDraft": "cascade",
    "load_model": "runtime",
    "run_search": "search",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'autodraft' has no attribute {name!r}")
    value = getattr(import_module(f"autodraft.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
