"""`TritonPass`: a forward pass of few launches, out of the Triton kernels: triton_fused.py, triton_attention.py.

Knows nothing of plans, steps or graphs. What leads out of a sub-layer is added to the residual stream where it lies.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autodraft.runtime.linears import Linear
from autodraft.runtime.operations import capped, joint_norm
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.torch_pass import Context, Part, Payload, TorchPass
from autodraft.runtime.torch_rows import Drafted, RowInputs
from autodraft.runtime.triton_attention import LEAST_LINES, attend_splits, join_splits, splits_of
from autodraft.runtime.triton_fused import (
    activate,
    add_normed,
    begin,
    best_of_chunks,
    extend_chain,
    norm_jointly,
    normalise,
)
from autodraft.runtime.triton_linear import RoundedRow, TritonLinear, early
from autodraft.runtime.triton_row_kernels import GROUP
from autodraft.runtime.weights import BlockWeights, Norm, TargetWeights

_Rows = Tensor | RoundedRow
_RowTensors = tuple[Tensor, Tensor | None, Tensor | None]
_WIDEST_HEAD = 256
_LEAST_HEAD = 16  # what tensor cores take
_LINE_BYTES = 128
_CHANNELS_PER_WARP = 32  # of a head, in attention: registers for more are not there
_EMBEDDED = 1024  # channels per program
_ACTIVATED = 1024  # channels per program
_CHUNK = 2048  # tokens per program
_KEYS = 1024  # at once


def is_fused(spec: ModelSpec) -> bool:
    """Whether the kernels know heads of this size."""
    size = spec.head_dim
    return _LEAST_HEAD <= size <= _WIDEST_HEAD and size & (size - 1) == 0


class TritonPass(TorchPass):
    """See `TorchPass`; the model must be `is_fused`, and its maps those of `TritonLinears`."""

    orders_paths = True
    row_counts = (1, 8, 16, 32, 64)
    least_keys = 1024

    def __init__(self, spec: ModelSpec, weights: TargetWeights, dtype: torch.dtype) -> None:
        super().__init__(spec, weights, dtype)
        self._lines = max(LEAST_LINES.value, _power_of_two(spec.group_size))
        rotations, device = weights.rotations, weights.embedding.device
        self._frequencies = torch.stack([rotation.frequencies for rotation in rotations]) if rotations else None
        self._table_scales = torch.tensor([rotation.scale for rotation in rotations], device=device)

    def start(self, inputs: RowInputs, keys: Tensor, values: Tensor) -> tuple[Tensor, Context]:
        weights, rows, width = self._weights, len(inputs.mask), self._spec.hidden_size
        device, half, rotations = keys.device, self._spec.rotary_dim // 2, len(self._weights.rotations)
        x = torch.empty((rows, width), device=device)
        cos, sin = torch.empty((2, rotations, rows, half), device=device)
        block = max(_EMBEDDED, _power_of_two(half))
        with torch.cuda.device_of(keys):
            begin[(rows, -(-width // block))](
                *(inputs.tokens, inputs.positions, weights.embedding, weights.positions),
                *(self._frequencies, self._table_scales, x, cos, sin, width, half),
                *(self._spec.embedding_scale, rotations, block),
            )
        return x, Context(keys, values, inputs, list(zip(cos, sin, strict=True)))

    def head(self, payload: Payload, x: Tensor) -> Tensor:
        normed = self._norm(x, self._weights.final_norm, _rounding([payload.head], len(x)))
        return capped(_through(payload.head, normed), self._spec.logit_cap)

    def extend(self, drafted: Drafted, inputs: RowInputs, row: Tensor, scores: Tensor) -> None:
        if drafted.found.shape[2] > 1:
            super().extend(drafted, inputs, row, scores)
            return
        count, keys = inputs.mask.shape
        chunks = -(-scores.shape[1] // _CHUNK)
        best, sums = torch.empty((2, chunks), device=scores.device)
        tokens = torch.empty(chunks, dtype=torch.int64, device=scores.device)
        mask, next_mask = (each.mask.view(torch.uint8) for each in (inputs, drafted.row))
        with torch.cuda.device_of(scores):
            best_of_chunks[(chunks,)](scores, best, tokens, sums, scores.shape[1], _CHUNK, **early(scores))
            extend_chain[(1,)](
                *(best, tokens, sums, inputs.numbers, mask, row, drafted.found, drafted.count),
                *(
                    drafted.row.numbers,
                    next_mask,
                    chunks,
                    count,
                    keys,
                    len(drafted.found),
                    _power_of_two(chunks),
                    _KEYS,
                ),
                **early(scores),
            )

    def attention(self, index: int, parts: list[Part], x: Tensor, context: Context) -> Tensor:
        block = self._weights.blocks[index]
        normed = self._norm(x, block.attention_norm, _rounding([part.inputs for part in parts], len(x)))
        output = x if block.attention_norm_behind is None else None
        for part in parts:
            projected, bits = _through(part.inputs, normed), _rounding([part.outputs], len(x))
            output = _added_to(output, part, self._attend(projected, part, block, context, index, bits))
        return self._stream(x, output, block.output.bias, block.attention_norm_behind)

    def mlp(self, index: int, parts: list[Part], x: Tensor) -> Tensor:
        block = self._weights.blocks[index]
        normed = self._norm(x, block.mlp_norm, _rounding([part.inputs for part in parts], len(x)))
        output = x if block.mlp_norm_behind is None else None
        for part in parts:
            output = _added_to(output, part, self._activated(part, normed))
        return self._stream(x, output, block.down.bias, block.mlp_norm_behind)

    def _stream(self, x: Tensor, output: Tensor | None, bias: Tensor | None, norm: Norm | None) -> Tensor:
        """The stream with a sub-layer's output, which has been added to it already where there is no norm behind it."""
        assert output is not None, "a sub-layer that runs has parts"
        if bias is not None:
            output.add_(bias)
        if norm is not None:
            width = x.shape[1]
            with torch.cuda.device_of(x):
                add_normed[(len(x),)](
                    *(output, norm.weight, x, width, self._spec.norm_eps, _power_of_two(width)), **early(x)
                )
        return x

    def _room(self, rows: int, width: int, bits: int | None, device: torch.device) -> tuple[_Rows, _RowTensors]:
        """Room for inputs of linear maps, and how kernels take it."""
        if bits is None:
            y = torch.empty((rows, width), dtype=self._dtype, device=device)
            return y, (y, None, None)
        row = RoundedRow.empty(width, bits, device)
        return row, row.tensors

    def _norm(self, x: Tensor, norm: Norm | None, bits: int | None) -> _Rows:
        width = x.shape[1]
        normed, tensors = self._room(len(x), width, bits, x.device)
        block = max(_power_of_two(width), GROUP.value)
        weight, bias = (None, None) if norm is None else (norm.weight, norm.bias)
        centred, warps = self._spec.norm == "layer", 8 if block >= 4096 else 4
        with torch.cuda.device_of(x):
            normalise[(len(x),)](
                *(x, weight, bias, *tensors, width, self._spec.norm_eps, centred, block),
                num_warps=warps,
                **early(x),
            )
        return normed

    def _attend(
        self, projected: Tensor, part: Part, block: BlockWeights, context: Context, index: int, bits: int | None
    ) -> _Rows:
        """Attention of every row over what it sees; its keys and values go to the cache.

        [rows, query, key and value heads * head_dim] -> [rows, query heads * head_dim]
        """
        spec, kv_heads = self._spec, len(part.channels)
        rows, heads, head_dim = len(projected), spec.group_size * kv_heads, spec.head_dim
        inputs, device = context.inputs, projected.device
        mask = inputs.mask.view(torch.uint8)
        seen = mask.shape[1]
        splits = splits_of(seen)
        mixed = torch.empty((splits, rows, heads, head_dim), dtype=torch.float32, device=device)
        highest, sums = torch.empty((2, splits, rows, heads), dtype=torch.float32, device=device)
        out, tensors = self._room(rows, heads * head_dim, bits if head_dim >= GROUP.value else None, device)
        rotation = spec.rotation_of(index)
        tables = (None, None) if rotation is None else context.tables[rotation]
        floors = inputs.floors if index in spec.windowed_blocks else None
        norms = [None if norm is None else norm.weight for norm in (block.query_norm, block.key_norm)]
        if spec.joint_qk_norm:
            self._norm_jointly(projected, part, block)
            norms = [None, None]
        keys, values = context.keys[index], context.values[index]
        scale, key_lines = head_dim**-0.5 * spec.query_scale, max(1, head_dim * keys.element_size() // _LINE_BYTES)
        with torch.cuda.device_of(projected):
            attend_splits[(-(-rows // (self._lines // spec.group_size)), kv_heads, splits)](
                *(projected, *norms, *tables, part.channels),
                *(inputs.slots, inputs.starts, inputs.paths),
                *(keys, values, mask, floors, mixed, highest, sums, rows, kv_heads, seen, keys.shape[1], spec.norm_eps),
                *(scale, spec.score_cap, spec.group_size, head_dim),
                *(spec.rotary_dim, spec.rotates_pairs, spec.norms_rotated, self._lines, key_lines),
                num_warps=max(head_dim // _CHANNELS_PER_WARP, 2),
                **early(projected),
            )
            join_splits[(rows * heads,)](
                *(mixed, highest, sums, *tensors, rows * heads, splits, head_dim), num_warps=1, **early(projected)
            )
        return out

    def _norm_jointly(self, projected: Tensor, part: Part, block: BlockWeights) -> None:
        """Norms of queries and keys of all heads of a part, in place."""
        spec, kv_heads = self._spec, len(part.channels)
        own = None if kv_heads == spec.num_kv_heads else part.channels
        assert block.query_norm is not None and block.key_norm is not None
        weights = [joint_norm(norm, spec, own).weight for norm in (block.query_norm, block.key_norm)]
        queries, keys = (len(weight) for weight in weights)
        with torch.cuda.device_of(projected):
            norm_jointly[(len(projected), 2)](
                *(projected, *weights, queries, keys, spec.norm_eps, _power_of_two(queries)), **early(projected)
            )

    def _activated(self, part: Part, normed: _Rows) -> _Rows:
        """[rows, hidden] -> [rows, channels of the part], activated by the product itself where nobody rounds."""
        spec, bits = self._spec, _rounding([part.outputs], len(normed) if isinstance(normed, Tensor) else 1)
        if bits is None and isinstance(normed, Tensor) and _rounding([part.inputs], len(normed)) is None:
            assert isinstance(part.inputs, TritonLinear)
            return part.inputs.activated(normed, spec.activation, spec.gated)
        hidden = _through(part.inputs, normed)
        width = hidden.shape[1] // (2 if spec.gated else 1)
        activated, tensors = self._room(len(hidden), width, bits, hidden.device)
        with torch.cuda.device_of(hidden):
            activate[(len(hidden), -(-width // _ACTIVATED))](
                *(hidden, *tensors, width, spec.gated, spec.activation, _ACTIVATED), **early(hidden)
            )
        return activated


def _rounding(linears: Sequence[Linear], rows: int) -> int | None:
    """Of so many rows, the bits of the weights that they are rounded for, if all maps want the same."""
    wanted = {linear.rounding(rows) for linear in linears if isinstance(linear, TritonLinear)}
    return wanted.pop() if len(wanted) == 1 else None


def _through(linear: Linear, rows: _Rows) -> Tensor:
    assert isinstance(linear, TritonLinear)
    return linear(rows)


def _added_to(output: Tensor | None, part: Part, rows: _Rows) -> Tensor:
    """What a part makes of its channels, added to what others have made."""
    assert isinstance(part.outputs, TritonLinear)
    return part.outputs(rows, into=output)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
