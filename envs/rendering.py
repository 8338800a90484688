"""A policy as a map of layers and bits: text for terminals, an image for videos.

Knows nothing of environments. One column per block, attention above MLP, the head at the end of the text; in the
image a sub-layer is a column whose parts have the colours of the bits that its channels run at.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from autodraft.policy import KEPT_BIT_WIDTHS, SHARE_UNITS, SUB_LAYER_KINDS, ChannelShares, DraftPolicy

_COLOURS = {16: (33, 102, 172), 8: (67, 162, 202), 4: (186, 228, 188), 0: (240, 240, 240)}
_UNDECIDED = (255, 217, 102)
_CELL, _GAP = 16, 2
_LETTERS = {0: ".", 4: "4", 8: "8", 16: "F"}


def policy_map(policy: DraftPolicy, is_decided: Callable[[int], bool]) -> str:
    """Three lines; `.` is dropped, F full precision, m mixed, ? undecided."""
    lines = []
    for row, kind in enumerate(SUB_LAYER_KINDS):
        letters = (
            _letter(block[kind]) if is_decided(2 * index + row) else "?" for index, block in enumerate(policy.blocks)
        )
        lines.append(f"{kind:<9} {' '.join(letters)}")
    head = policy.head_bits if is_decided(2 * len(policy.blocks)) else "?"
    return "\n".join([*lines, f"{'head':<9} {head}"])


def _letter(shares: ChannelShares) -> str:
    return next((letter for bits, letter in _LETTERS.items() if shares == ChannelShares.all_at(bits)), "m")


def policy_image(policy: DraftPolicy, is_decided: Callable[[int], bool]) -> npt.NDArray[np.uint8]:
    """[2 sub-layers high, blocks and the head wide, 3] in cells of 16 pixels."""
    columns = len(policy.blocks) + 1
    height, width = (2 * (_CELL + _GAP) + _GAP, columns * (_CELL + _GAP) + _GAP)
    image = np.full((height, width, 3), 255, dtype=np.uint8)
    for index, shares in enumerate(policy.sub_layers):
        _paint(image, index % 2, index // 2, shares, is_decided(index))
    head = ChannelShares.all_at(policy.head_bits)
    for row in range(2):
        _paint(image, row, columns - 1, head, is_decided(2 * len(policy.blocks)))
    return image


def _paint(image: npt.NDArray[np.uint8], row: int, column: int, shares: ChannelShares, decided: bool) -> None:
    """Fill a cell from above with the most important channels first."""
    top, left = _GAP + row * (_CELL + _GAP), _GAP + column * (_CELL + _GAP)
    cell = image[top : top + _CELL, left : left + _CELL]
    cell[:] = _COLOURS[0] if decided else _UNDECIDED
    start = 0
    for bits in KEPT_BIT_WIDTHS if decided else ():
        stop = start + shares.units_at(bits) * _CELL // SHARE_UNITS
        cell[start:stop] = _COLOURS[bits]
        start = stop
