"""`DraftPolicy`: which channels of each sub-layer a draft keeps, and at how many bits.

Knows nothing of weights, devices or time: a policy is a value that can be compared, hashed, written
as JSON and checked against a `ModelSpec`. The one idea (AJPQ; Tang, Wei & Li): every channel group has
a bit-width and 0 bits means that it is gone, so layer skipping, pruning and quantization are one type.

Channels are FFN intermediate neurons in an MLP and KV-head groups in attention. A share says which
part of them runs at a bit-width, in order of importance: the most important channels get the most bits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from autodraft.errors import PolicyError

FULL_BITS = 16
"""The label of the target's own precision, whatever its dtype is."""

BIT_WIDTHS = (0, 4, 8, FULL_BITS)
KEPT_BIT_WIDTHS = (FULL_BITS, 8, 4)
"""Bit-widths that run, most precise first: the order in which importance is served."""

SHARE_UNITS = 16
"""Shares are whole sixteenths: exact in arithmetic, in hashing and in JSON."""

SubLayerKind = Literal["attention", "mlp"]
SUB_LAYER_KINDS: tuple[SubLayerKind, SubLayerKind] = ("attention", "mlp")

MIXED = "m"
"""How a sub-layer at several bit-widths reads."""

_FIELDS = {FULL_BITS: "full", 8: "eight", 4: "four"}


@dataclass(frozen=True, order=True)
class ChannelShares:
    """How the channels of one sub-layer are shared out, in sixteenths; what is left over has 0 bits."""

    full: int = 0
    eight: int = 0
    four: int = 0

    def __post_init__(self) -> None:
        units = (self.full, self.eight, self.four)
        if any(not isinstance(unit, int) or unit < 0 for unit in units) or sum(units) > SHARE_UNITS:
            raise PolicyError(f"channel shares {units} must be whole sixteenths that add up to at most 1")

    @classmethod
    def all_at(cls, bits: int) -> ChannelShares:
        """Every channel at `bits`; 0 drops the sub-layer."""
        if bits not in BIT_WIDTHS:
            raise PolicyError(f"{bits} bits is no bit-width; choose one of {BIT_WIDTHS}")
        return _ALL_AT[bits]

    @classmethod
    def of(cls, units: Mapping[int, int]) -> ChannelShares:
        """From sixteenths by bit-width."""
        return cls(**{_FIELDS[bits]: count for bits, count in units.items()})

    @property
    def single_width(self) -> int | None:
        """The bit-width of everything that is kept; None where there are several, or nothing is."""
        widths = [bits for bits in KEPT_BIT_WIDTHS if self.units_at(bits)]
        return widths[0] if len(widths) == 1 else None

    @property
    def dropped(self) -> int:
        """Sixteenths at 0 bits."""
        return SHARE_UNITS - self.full - self.eight - self.four

    @property
    def is_skipped(self) -> bool:
        return self.dropped == SHARE_UNITS

    @property
    def mean_bits(self) -> float:
        """Average bits per channel, dropped channels counted as 0."""
        return (FULL_BITS * self.full + 8 * self.eight + 4 * self.four) / SHARE_UNITS

    def units_at(self, bits: int) -> int:
        """Sixteenths that run at `bits`."""
        return {FULL_BITS: self.full, 8: self.eight, 4: self.four, 0: self.dropped}[bits]

    def segments(self, num_channels: int) -> list[tuple[int, int, int]]:
        """`(bits, start, stop)` ranges over channels in order of importance, most bits first, empty ones left out."""
        segments, start, units = [], 0, 0
        for bits in KEPT_BIT_WIDTHS:
            units += self.units_at(bits)
            stop = round(num_channels * units / SHARE_UNITS)
            if stop > start:
                segments.append((bits, start, stop))
            start = stop
        return segments

    def to_json(self) -> dict[str, float]:
        """`{"bits": share}` of what is kept; an empty object is a dropped sub-layer."""
        return {str(bits): self.units_at(bits) / SHARE_UNITS for bits in KEPT_BIT_WIDTHS if self.units_at(bits)}

    @classmethod
    def from_json(cls, document: Mapping[str, float]) -> ChannelShares:
        names = {str(bits): bits for bits in KEPT_BIT_WIDTHS}
        units: dict[int, int] = {}
        if not isinstance(document, Mapping):
            raise PolicyError(f'channel shares must be an object such as {{"8": 1.0}}, not {document!r}')
        for bits, share in document.items():
            if bits not in names:
                raise PolicyError(f"unknown bit-width {bits!r} in channel shares; known: {', '.join(names)}")
            is_number = isinstance(share, int | float) and not isinstance(share, bool)
            if not is_number or share * SHARE_UNITS != int(share * SHARE_UNITS):
                raise PolicyError(f"share {share!r} at {bits} bits is not a whole number of sixteenths")
            units[names[bits]] = int(share * SHARE_UNITS)
        return cls.of(units)


_ALL_AT = {
    0: ChannelShares(),
    4: ChannelShares(four=SHARE_UNITS),
    8: ChannelShares(eight=SHARE_UNITS),
    FULL_BITS: ChannelShares(full=SHARE_UNITS),
}


@dataclass(frozen=True, order=True)
class BlockPolicy:
    """The decisions for the two sub-layers of one block."""

    attention: ChannelShares
    mlp: ChannelShares

    def __getitem__(self, kind: SubLayerKind) -> ChannelShares:
        return self.attention if kind == "attention" else self.mlp


@dataclass(frozen=True)
class DraftPolicy:
    """The compression decisions of one draft: every block's shares, and the bits of the output head.

    Attributes:
        blocks: one `BlockPolicy` per block of the target, in order.
        head_bits: precision of the output head (never 0: a draft must give logits).
    """

    blocks: tuple[BlockPolicy, ...]
    head_bits: int = FULL_BITS

    def __post_init__(self) -> None:
        if not self.blocks:
            raise PolicyError("a policy needs at least one block")
        if self.head_bits not in KEPT_BIT_WIDTHS:
            raise PolicyError(f"head_bits is {self.head_bits}; the output head runs at one of {KEPT_BIT_WIDTHS} bits")

    @classmethod
    def uniform(cls, num_blocks: int, bits: int = FULL_BITS, head_bits: int | None = None) -> DraftPolicy:
        """All sub-layers at `bits`; `uniform(n)` is the target itself."""
        shares = ChannelShares.all_at(bits)
        return cls((BlockPolicy(shares, shares),) * num_blocks, head_bits or bits or FULL_BITS)

    @classmethod
    def from_sub_layers(cls, shares: Iterable[ChannelShares], head_bits: int = FULL_BITS) -> DraftPolicy:
        """From shares in the order attention 0, MLP 0, attention 1, ..."""
        flat = list(shares)
        if len(flat) % 2:
            raise PolicyError(f"{len(flat)} sub-layers: each block has an attention and an MLP sub-layer")
        return cls(tuple(map(BlockPolicy, flat[::2], flat[1::2])), head_bits)

    @property
    def sub_layers(self) -> tuple[ChannelShares, ...]:
        """Shares in the order attention 0, MLP 0, attention 1, ..."""
        return tuple(block[kind] for block in self.blocks for kind in SUB_LAYER_KINDS)

    def replace(self, changes: Mapping[int, ChannelShares], head_bits: int | None = None) -> DraftPolicy:
        """A copy with the sub-layers numbered in `changes` (2 * block + (0 attention, 1 MLP)) changed."""
        flat = list(self.sub_layers)
        for index, shares in changes.items():
            flat[index] = shares
        return DraftPolicy.from_sub_layers(flat, self.head_bits if head_bits is None else head_bits)

    def at_bits(self, bits: int) -> DraftPolicy:
        """What it keeps, all of it and the head at `bits`."""
        shares = (ChannelShares.of({bits: SHARE_UNITS - each.dropped}) for each in self.sub_layers)
        return DraftPolicy.from_sub_layers(shares, bits)

    @property
    def is_full(self) -> bool:
        """Whether this is the target itself."""
        full = ChannelShares.all_at(FULL_BITS)
        return self.head_bits == FULL_BITS and all(shares == full for shares in self.sub_layers)

    @property
    def num_skipped(self) -> int:
        """Sub-layers with no channel left."""
        return sum(shares.is_skipped for shares in self.sub_layers)

    @property
    def mean_bits(self) -> float:
        """Average bits over sub-layers, skipped ones counted as 0 (not weighted by parameters)."""
        return sum(shares.mean_bits for shares in self.sub_layers) / len(self.sub_layers)

    def check(self, num_blocks: int, num_kv_heads: int) -> None:
        """Raise `PolicyError` unless the policy fits a model with these numbers of blocks and KV heads."""
        if len(self.blocks) != num_blocks:
            raise PolicyError(f"the policy has {len(self.blocks)} blocks, the model has {num_blocks}")
        for index, block in enumerate(self.blocks):
            for bits in BIT_WIDTHS:
                heads = num_kv_heads * block.attention.units_at(bits) / SHARE_UNITS
                if heads != int(heads):
                    raise PolicyError(
                        f"block {index}: {block.attention.units_at(bits)}/16 of {num_kv_heads} KV heads at {bits} bits"
                        " is no whole number of heads"
                    )

    def to_json(self) -> dict[str, Any]:
        return {
            "blocks": [{kind: block[kind].to_json() for kind in SUB_LAYER_KINDS} for block in self.blocks],
            "head_bits": self.head_bits,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> DraftPolicy:
        """The inverse of `to_json`; an unknown or missing field is a `PolicyError`."""
        if not isinstance(document, Mapping) or set(document) != {"blocks", "head_bits"}:
            raise PolicyError("a policy is an object with exactly the fields 'blocks' and 'head_bits'")
        if not isinstance(document["blocks"], list | tuple):
            raise PolicyError("the field 'blocks' of a policy is a list with one object per block")
        blocks = []
        for index, block in enumerate(document["blocks"]):
            if not isinstance(block, Mapping) or set(block) != set(SUB_LAYER_KINDS):
                raise PolicyError(f"block {index} of a policy needs exactly the fields 'attention' and 'mlp'")
            blocks.append(BlockPolicy(*(ChannelShares.from_json(block[kind]) for kind in SUB_LAYER_KINDS)))
        return cls(tuple(blocks), document["head_bits"])

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of the SHA-256 of the canonical JSON: equal policies, equal digests."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        """A letter per sub-layer, a space between blocks (F full, 8, 4, `.` skipped, `m` several bit-widths); the head.

        In brackets, how many sixteenths of its channels a narrowed one keeps.
        """
        blocks = " ".join("".join(map(shares_text, (block.attention, block.mlp))) for block in self.blocks)
        return f"{blocks}, head {self.head_bits}"


def shares_text(shares: ChannelShares) -> str:
    """As a policy's string shows them."""
    if shares.is_skipped:
        return "."
    bits = shares.single_width
    if bits is None:
        return MIXED
    letter = "F" if bits == FULL_BITS else str(bits)
    return f"{letter}({SHARE_UNITS - shares.dropped})" if shares.dropped else letter
