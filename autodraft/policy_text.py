"""Policies as short strings, and back again.

A policy reads as `str(policy)` does, one letter per sub-layer, except that a mixed sub-layer spells out its
sixteenths: "F8(12) .(8/4/2) | head 8" is full, 12/16 at 8 bits; skipped, 8/16 full + 4/16 at 8 + 2/16 at 4. Knows
nothing of who reads it.
"""

from __future__ import annotations

import re

from autodraft.errors import PolicyError
from autodraft.policy import MIXED, SHARE_UNITS, ChannelShares, DraftPolicy, shares_text

POLICY_LEGEND = "per block attention and MLP: F full, 8, 4, `.` skipped; in brackets, sixteenths that are kept"
"""How policies read, for reports."""

_LETTERS = {"F": 16, "8": 8, "4": 4}
_TOKEN = re.compile(r"([F84])(?:\((\d+)\))?|\.|\((\d+)/(\d+)/(\d+)\)")


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
        shares.append(_decode_shares(match))
        position = match.end()
    if not separator or not head.isdigit() or position < len(body):
        raise PolicyError(f"not a policy string: {text!r}")
    return DraftPolicy.from_sub_layers(shares, int(head))


def _encode_shares(shares: ChannelShares) -> str:
    text = shares_text(shares)
    return f"({shares.full}/{shares.eight}/{shares.four})" if text == MIXED else text


def _decode_shares(match: re.Match[str]) -> ChannelShares:
    letter, kept, *units = match.groups()
    if letter is not None:
        return ChannelShares.of({_LETTERS[letter]: SHARE_UNITS if kept is None else int(kept)})
    return ChannelShares() if units[0] is None else ChannelShares(*map(int, units))
