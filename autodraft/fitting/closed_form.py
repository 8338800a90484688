"""`fit_draft`: matrices of a draft from one walk over a text beside the target, without gradients.

What a draft leaves out or rounds moves its residual stream away from the target's. Sub-layer by sub-layer, maps into
the channels are chosen such that they give for the draft's stream what the target's own give for the target's, and the
map out of them such that the draft's stream arrives where the target's will be when the next kept sub-layer begins, or,
where a norm behind that map fixes how far the stream moves, moves in that direction. Both are least squares with a
prior on the target's matrix (the refit of Hebiri & Lederer, arXiv 2006.15604, one linear map at a time). Of a sub-layer
that loses some of its channels, those go that add least, by the size of what the map out of them makes of the text
(Wanda, arXiv 2306.11695), and the others are fitted once more without them. Then the matrix is rounded, and what comes
after it sees what it has become. Knows nothing of files or searching.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from autodraft.fitting.rounding import rounded
from autodraft.fitting.sub_layers import DRAFT_WINDOW, DraftView, SubLayers, TargetKeys
from autodraft.policy import FULL_BITS, SUB_LAYER_KINDS, DraftPolicy
from autodraft.runtime.draft_weights import HEAD, kept_sub_layers, matrix_name, sub_layer_parts, target_matrices
from autodraft.runtime.operations import apply_norm
from autodraft.runtime.plan import num_channels
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.weights import Norm, TargetWeights

_PRIOR_ROWS = 4.0
"""The prior is worth this many rows of text for every input of a matrix."""

_LEAST_SQUARE = 0.01
"""Of a norm's weights, over their mean square: below it a channel's part of a direction is not made up for."""

_WINDOWS = 8
"""That run side by side."""


def can_fit(policy: DraftPolicy) -> bool:
    """Whether every kept sub-layer is at one low bit-width, and anything is rounded to 4 bits or left out."""
    kept = [shares for shares in policy.sub_layers if not shares.is_skipped]
    widths = {shares.single_width for shares in kept}
    is_changed = 4 in widths or any(shares.dropped for shares in policy.sub_layers)
    return bool(kept) and is_changed and widths <= {4, 8}


def windows_of(texts: Iterable[Sequence[int]], length: int, most_tokens: int) -> Tensor:
    """Texts one after another, cut into windows of equal length; one shorter window where there is less.

    int64 [count, tokens]
    """
    stream = [token for text in texts for token in text][:most_tokens]
    length = min(length, len(stream))
    count = len(stream) // length
    return torch.tensor(stream[: count * length]).view(count, length)


@torch.no_grad()
def fit_draft(
    spec: ModelSpec,
    weights: TargetWeights,
    policy: DraftPolicy,
    windows: Tensor,
    *,
    dtype: torch.dtype,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Tensor]:
    """The matrices of everything that the policy keeps, and of the head where it has low bits; in the target's dtype.

    Args:
        spec: the target's architecture.
        weights: the target's.
        policy: one that `can_fit`.
        windows: text, int64 [count, tokens].
        dtype: of the passes' matrix products.
        on_step: told of the sub-layers done; what it raises ends the fit.
    """
    return _Fit(spec, weights, policy, windows, dtype).run(on_step)


@dataclass(frozen=True)
class _Moments:
    """Sums over rows of text: of x x^T for the draft's inputs x, and of y x^T for what is wanted of them."""

    inputs: Tensor
    wanted: Tensor

    @classmethod
    def of(cls, pairs: Iterable[tuple[Tensor, Tensor]]) -> _Moments:
        """(inputs, wanted), [rows, ..] each, batch by batch."""
        batches = iter(pairs)
        x, y = next(batches)
        sums = cls(x.T @ x, y.T @ x)
        for x, y in batches:
            sums.inputs.addmm_(x.T, x)
            sums.wanted.addmm_(y.T, x)
        return sums

    def of_inputs(self, columns: Tensor) -> _Moments:
        """The same as if there were no other inputs."""
        return _Moments(self.inputs[columns][:, columns], self.wanted[:, columns])

    def solve(self, prior: Tensor, num_rows: int) -> Tensor:
        """The map that is nearest to what is wanted in least squares, beside `prior`. [outputs, inputs]"""
        size = len(self.inputs)
        strength = _PRIOR_ROWS * size / num_rows * (float(self.inputs.diagonal().mean()) or 1.0)
        system = self.inputs + strength * torch.eye(size, device=self.inputs.device)
        solved: Tensor = torch.cholesky_solve((self.wanted + strength * prior).T, torch.linalg.cholesky(system))
        return solved.T


def _before_norm(wanted: Tensor, norm: Norm, like: Tensor) -> Tensor:
    """What a norm turns into rows of the directions `wanted`, of the sizes of `like`. [.., hidden]"""
    squares = norm.weight.square()
    direction: Tensor = wanted * norm.weight / (squares + _LEAST_SQUARE * squares.mean())
    sizes: Tensor = like.norm(dim=-1, keepdim=True) / direction.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return direction * sizes


class _Fit(SubLayers):
    """A draft in the making; `ahead` and `own` are the streams of target and draft, one for each batch of windows."""

    def __init__(
        self, spec: ModelSpec, weights: TargetWeights, policy: DraftPolicy, windows: Tensor, dtype: torch.dtype
    ) -> None:
        self._fitted: dict[str, Tensor] = {}
        super().__init__(spec, weights, self._fitted, dtype=dtype)
        self._policy, self._target = policy, SubLayers(spec, weights, {}, dtype=dtype)
        batches = windows.to(weights.embedding.device).split(_WINDOWS)
        self._num_rows = windows.numel()
        self._rotation = self._tables(windows.shape[1])
        self._keys = [TargetKeys({}, {}) for _ in batches]
        self._views = [DraftView.windowed(keys, windows.shape[1], DRAFT_WINDOW, 0) for keys in self._keys]
        self._ahead = [self._embed(batch) for batch in batches]
        self._own = list(self._ahead)
        self._outputs: list[Tensor] = []  # the target's, of the kept sub-layer that is being fitted

    def run(self, on_step: Callable[[int, int], None]) -> dict[str, Tensor]:
        silent = kept_sub_layers(self._policy) & self.weights.silent_sub_layers
        for name, matrix in target_matrices(self.weights, self.spec, silent).items():
            self._fitted[name] = matrix
        kept = sorted(kept_sub_layers(self._policy) - silent)
        self._advance(0, kept[0] if kept else self.spec.num_sub_layers)
        for done, (sub_layer, following) in enumerate(pairwise((*kept, self.spec.num_sub_layers))):
            self._fit_inputs(sub_layer)
            self._advance(sub_layer, following)
            self._fit_outputs(sub_layer)
            on_step(done + 1, len(kept))
        if self._policy.head_bits != FULL_BITS:
            self._fitted[HEAD] = self._aligned([self.weights.head], self.weights.final_norm, self._policy.head_bits)[0]
        return self._fitted

    def _advance(self, sub_layer: int, following: int) -> None:
        """The target's streams from the beginning of one sub-layer to that of another; its keys are kept."""
        for keys in self._keys:  # of earlier sub-layers nobody needs them any more
            keys.keys.clear()
            keys.values.clear()
        for index in range(sub_layer, following):
            outputs = [
                self._target._output(self._target._inner(x, index, self._rotation, written=keys), index)
                for x, keys in zip(self._ahead, self._keys, strict=True)
            ]
            if index == sub_layer:
                self._outputs = outputs if self.spec.norms_behind else []
            for batch, output in enumerate(outputs):
                self._ahead[batch] = self._ahead[batch] + self._behind(output, index)

    def _fit_inputs(self, sub_layer: int) -> None:
        """Maps into the channels: what the target's give for its stream, for the draft's."""
        block = self.weights.blocks[sub_layer // 2]
        parts = sub_layer_parts(sub_layer, self.spec)[:-1]
        matrices = [getattr(block, part).weight for part in parts]
        norm = block.mlp_norm if sub_layer % 2 else block.attention_norm
        fitted = self._aligned(matrices, norm, self._bits_of(sub_layer))
        self._fitted |= {matrix_name(sub_layer // 2, part): own for part, own in zip(parts, fitted, strict=True)}

    def _aligned(self, matrices: Sequence[Tensor], norm: Norm | None, bits: int) -> list[Tensor]:
        """Matrices that do to the draft's normed stream what these do to the target's."""
        moments = _Moments.of(
            (self._normed(own, norm), self._normed(ahead, norm))
            for own, ahead in zip(self._own, self._ahead, strict=True)
        )
        alignment = moments.solve(torch.eye(len(moments.inputs), device=moments.inputs.device), self._num_rows)
        aligned = [matrix.float() @ alignment for matrix in matrices]
        return [self._stored(low) for low in rounded(aligned, moments.inputs, bits)]

    def _stored(self, matrix: Tensor) -> Tensor:
        """As the file keeps it: fitted matrices of a large model take no more memory than its own."""
        return matrix.to(self.weights.embedding.dtype)

    def _normed(self, x: Tensor, norm: Norm | None) -> Tensor:
        return apply_norm(x, norm, self.spec).flatten(0, 1)

    def _fit_outputs(self, sub_layer: int) -> None:
        """The map out of the channels: from where the draft's stream is to where the target's will be; runs it, too.

        A norm behind it undoes any size: there it is the direction that counts, at the size of what the target's gives.
        """
        block, part = sub_layer // 2, sub_layer_parts(sub_layer, self.spec)[-1]
        projection = getattr(self.weights.blocks[block], part)
        bias = 0.0 if projection.bias is None else projection.bias
        inner = [
            self._inner(x, sub_layer, self._rotation, view) for x, view in zip(self._own, self._views, strict=True)
        ]
        wanted = [ahead - own for ahead, own in zip(self._ahead, self._own, strict=True)]
        norm = self._norm_behind(sub_layer)
        if norm is not None:
            wanted = [_before_norm(gap, norm, output) for gap, output in zip(wanted, self._outputs, strict=True)]
        moments = _Moments.of(
            (x.flatten(0, 1).float(), (y - bias).flatten(0, 1)) for x, y in zip(inner, wanted, strict=True)
        )
        prior = projection.weight.float()
        matrix, columns = moments.solve(prior, self._num_rows), torch.arange(prior.shape[1], device=prior.device)
        if self._policy.sub_layers[sub_layer].dropped:
            columns = self._kept_columns(sub_layer, matrix.square().sum(dim=0) * moments.inputs.diagonal())
            moments = moments.of_inputs(columns)
            matrix = moments.solve(prior[:, columns], self._num_rows)
        (low,) = rounded([matrix], moments.inputs, self._bits_of(sub_layer))
        fitted = torch.zeros_like(prior)
        fitted[:, columns] = low
        self._fitted[matrix_name(block, part)] = self._stored(fitted)
        for batch, x in enumerate(inner):
            self._own[batch] = self._own[batch] + self._behind(self._output(x, sub_layer), sub_layer)

    def _kept_columns(self, sub_layer: int, sizes: Tensor) -> Tensor:
        """Inputs of the map out of the channels that stay, ascending; the rows that lead to the others become zero.

        A plan takes the channels of largest norms, so it takes these.

        Args:
            sub_layer: one that keeps a part of its channels.
            sizes: of what each input adds.
        """
        kind, shares = SUB_LAYER_KINDS[sub_layer % 2], self._policy.sub_layers[sub_layer]
        count = num_channels(kind, self.spec)
        ((_, _, kept),) = shares.segments(count)
        order = sizes.view(count, -1).sum(dim=1).argsort(descending=True, stable=True)
        for part in ("value",) if kind == "attention" else sub_layer_parts(sub_layer, self.spec)[:-1]:
            matrix = self._fitted[matrix_name(sub_layer // 2, part)]
            matrix.view(count, -1)[order[kept:]] = 0
        channels, width = order[:kept].sort().values, len(sizes) // count
        return (channels[:, None] * width + torch.arange(width, device=sizes.device)).flatten()

    def _bits_of(self, sub_layer: int) -> int:
        bits = self._policy.sub_layers[sub_layer].single_width
        assert bits is not None, "such a policy cannot be fitted"
        return bits
