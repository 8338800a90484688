"""Policies as short strings, and back again.

A policy reads as `str(policy)` does, one letter per sub-layer, except that a mixed sub-layer spells out its
sixteenths: "F8 .(8/4/2) | head 8" is full, 8 bits; skipped, 8/16 full + 4/16 at 8 + 2/16 at 4. Knows nothing of who
reads it.
"""

from __future__ import annotations

import re

from autodraft.errors import PolicyError
from autodraft.policy import ChannelShares, DraftPolicy

_LETTERS = {"F": 16, "8": 8, "4": 4, ".": 0}
_TOKEN = re.compile(r"[F84.]|\((\d+)/(\d+)/(\d+)\)")


def encode_policy(policy: DraftPolicy) -> str:
    """A string that `decode_policy` turns back into the same policy."""
    blocks = " ".join(_encode_shares(block.attention) + _encode_shares(block.mlp) for block in policy.blocks)
    return f"{blocks} | head {policy.head_bits}"


def decode_policy(text: str) -> DraftPolicy:
    """The inverse of `encode_policy`; anything else is a `PolicyError`."""
    body, separator, head = text.partition(" | head ")
    shares: list[ChannelShares] = []
    position, body = 0, body.replace(" ", "")
    while position < len(body):
        match = _TOKEN.match(body, position)
        if match is None:
            break
        units = match.groups()
        shares.append(ChannelShares(*map(int, units)) if units[0] else ChannelShares.all_at(_LETTERS[match.group()]))
        position = match.end()
    if not separator or not head.isdigit() or position < len(body):
        raise PolicyError(f"not a policy string: {text!r}")
    return DraftPolicy.from_sub_layers(shares, int(head))


def _encode_shares(shares: ChannelShares) -> str:
    for letter, bits in _LETTERS.items():
        if shares == ChannelShares.all_at(bits):
            return letter
    return f"({shares.full}/{shares.eight}/{shares.four})"
