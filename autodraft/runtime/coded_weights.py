"""`CodedWeights`: bfloat16 matrices in 12 bits a weight, to the bit.

Trained weights differ little in size: of their 8 bits of exponent less than three carry information (DFloat11,
arXiv 2504.11651). So nearly all upper bytes of a matrix, which are sign and most of the exponent, are among 16, and a
code of 4 bits says which; lower bytes stay as they are. The few groups of weights that have another upper byte are
kept beside, uncoded. Where memory is what a step waits for, a target is read in three quarters of the time.

Knows nothing of the engine but how its panels lie (KIND_BF16 and KIND_CODED in native/engine.h), and that it codes
them (native/coded.c).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from autodraft.runtime.native_build import load_library
from autodraft.runtime.sharing_out import share_out

_GROUP = 128
_GROUP_BYTES = 192
CODED_SHARE = _GROUP_BYTES / (2 * _GROUP)
"""Bytes of coded weights over those of plain ones."""
_CODES = 16
_NO_CODE = 255
_NO_GROUP = 2**31 - 1
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
        weights = panels.reshape(len(panels), -1, _GROUP).contiguous()
        library, (number, num_groups) = load_library(), weights.shape[:2]
        groups = torch.zeros((-(-number // 2), num_groups, 2, _GROUP_BYTES), dtype=torch.uint8)
        plain = torch.empty((number, num_groups), dtype=torch.bool)
        counts = torch.empty((torch.get_num_threads(), 256), dtype=torch.int64)

        def count(first: int, last: int, thread: int) -> None:
            part = weights[first:last]
            library.count_uppers(_pointer(part), ctypes.c_int64(part.numel()), _pointer(counts[thread]))

        def code(first: int, last: int, _: int) -> None:
            library.code_panels(
                _pointer(weights), first, last, num_groups, _pointer(table), _pointer(groups), _pointer(plain)
            )

        share_out(number, count)
        uppers = counts.sum(0).topk(_CODES).indices
        table = torch.full((256,), _NO_CODE, dtype=torch.uint8)
        table[uppers] = torch.arange(_CODES, dtype=torch.uint8)
        share_out(number, code)
        if plain.sum() > _MOST_PLAIN * plain.numel():
            return None
        return cls(groups, uppers.to(torch.uint8), weights[plain], _lists(plain))


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _lists(plain: Tensor) -> Tensor:
    """Of flags [panels, groups]: every list has an end, a number that no group has."""
    ended = torch.cat((plain, plain.new_ones(len(plain), 1)), dim=1)
    group = ended.nonzero(as_tuple=True)[1]
    group[group == plain.shape[1]] = _NO_GROUP
    lengths = ended.sum(1)
    starts = len(plain) + lengths.cumsum(0) - lengths
    return torch.cat((starts, group)).to(torch.int32)
