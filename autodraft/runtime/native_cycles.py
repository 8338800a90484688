"""ctypes mirrors of what `native/cycles.c` takes and gives. Knows nothing of why something is drafted."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int32

from autodraft.runtime.cycles import Lookup
from autodraft.runtime.native_binding import CPlan


class CLookup(ctypes.Structure):
    """Prompt lookup."""

    _fields_ = tuple((name, c_int32) for name in ("tokens", "max_ngram", "min_ngram"))


class CDrafting(ctypes.Structure):
    """What is drafted in every cycle."""

    _fields_ = (("lookup", CLookup), ("plan", POINTER(CPlan)), ("longest", c_int32))


class CBounds(ctypes.Structure):
    """When no further cycle begins."""

    _fields_ = (
        *((name, c_int32) for name in ("room", "tokens", "cycles")),
        *((name, c_float) for name in ("seconds", "token_s", "lost_s")),
    )


class CCycle(ctypes.Structure):
    """What a cycle did."""

    _fields_ = (
        *((name, c_int32) for name in ("looked_up", "drafted", "committed")),
        *((name, c_float) for name in ("draft_s", "verify_s")),
    )


def drafting(lookup: Lookup | None, plan: CPlan | None, longest: int) -> CDrafting:
    """The structure; it points to `plan`."""
    found = CLookup() if lookup is None else CLookup(lookup.num_tokens, lookup.max_ngram, lookup.min_ngram)
    return CDrafting(found, None if plan is None else ctypes.pointer(plan), longest)
