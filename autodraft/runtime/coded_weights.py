"""`CodedWeights`: bfloat16 matrices in 12 bits a weight, to the bit.

Trained weights differ little in size: of their 8 bits of exponent less than three carry information (DFloat11,
arXiv 2504.11651). So nearly all upper bytes of a matrix, which are sign and most of the exponent, are among 16, and a
code of 4 bits says which; lower bytes stay as they are. The few groups of weights that have another upper byte are
kept beside, uncoded. Where memory is what a step waits for, a target is read in three quarters of the time.

Knows nothing of the engine but how its panels lie (KIND_BF16 and KIND_CODED in native/engine.h).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CODES = 16
_NO_CODE = 255
_NO_GROUP = 2**31 - 1
_AT_ONCE = 1 << 24
"""Weights; what is made on the way takes several times their memory."""
_MOST_PLAIN = 1 / 16
"""Share of groups that may be kept uncoded; with more there is little to be gained."""


@dataclass(frozen=True)
class CodedWeights:
    """One matrix.

    Attributes:
        groups: uint8 [panels / 2, inputs / 8, 2, 192]; 128 lower bytes, then bytes with the codes of one weight of the
            first half and of one of the second. Of 16 lower bytes the first 8 belong to one pair of inputs, the others
            to the next: lower and upper bytes are put together by two instructions.
        uppers: uint8 [16], upper bytes by code.
        plain: bfloat16 [number, 128], groups with other upper bytes, in order.
        lists: int32 [panels + ...]; where in here each panel's list of those groups begins, and the lists.
    """

    groups: Tensor
    uppers: Tensor
    plain: Tensor
    lists: Tensor

    @classmethod
    def of(cls, panels: Tensor) -> CodedWeights | None:
        """Of bfloat16 [panels, inputs / 2, 16, 2], inputs in multiples of 8; None if too many groups have no codes."""
        number = len(panels)
        weights = panels.reshape(number, -1, 128)
        parts = weights.split(2 * max(1, _AT_ONCE // (2 * weights[0].numel())))
        counts = torch.stack([torch.bincount(_bytes(part)[1].flatten(), minlength=256) for part in parts])
        most = counts.sum(0).topk(_CODES).indices
        groups, plain = map(torch.cat, zip(*(_coded(part, most) for part in parts), strict=True))
        if plain.sum() > _MOST_PLAIN * plain.numel():
            return None
        padded = torch.cat((groups, groups.new_zeros(number % 2, *groups.shape[1:])))
        return cls(
            padded.unflatten(0, (-1, 2)).transpose(1, 2).contiguous(),
            most.to(torch.uint8),
            weights[plain],
            _lists(plain),
        )


def _bytes(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper ones of [panels, groups, 128], each [panels, groups, half, lane, pair of the half, weight]."""
    pairs = weights.contiguous().view(torch.uint8).view(*weights.shape[:2], 2, 2, 4, 8, 2).transpose(3, 4)
    return pairs[..., 0], pairs[..., 1]


def _coded(weights: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Groups [panels, groups, 192] of weights [panels, groups, 128], and which of them have other upper bytes."""
    lower, upper = _bytes(weights)
    codes = _translated(upper, most)
    first, second = codes.unbind(2)
    both = (first & 15) | (second << 4)
    return torch.cat((lower.flatten(2), both.flatten(2)), dim=-1), (codes == _NO_CODE).flatten(2).any(-1)


def _translated(upper: Tensor, most: Tensor) -> Tensor:
    """The place of each byte in `most`, or `_NO_CODE`."""
    table = bytearray([_NO_CODE] * 256)
    for code, byte in enumerate(most.tolist()):
        table[byte] = code
    codes = bytearray(upper.contiguous().numpy()).translate(table)  # far faster than indexing
    return torch.frombuffer(codes, dtype=torch.uint8).view(upper.shape)


def _lists(plain: Tensor) -> Tensor:
    """Of flags [panels, groups]: every list has an end, a number that no group has."""
    ended = torch.cat((plain, plain.new_ones(len(plain), 1)), dim=1)
    group = ended.nonzero(as_tuple=True)[1]
    group[group == plain.shape[1]] = _NO_GROUP
    lengths = ended.sum(1)
    starts = len(plain) + lengths.cumsum(0) - lengths
    return torch.cat((starts, group)).to(torch.int32)
