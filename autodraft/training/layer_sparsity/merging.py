"""Which layers of a network are linear, and the same function with fewer layers.

Hidden layer j computes `h^j = relu(W^(j-1) h^(j-1))` from `h^0 = x`. For j >= 2 its input `h^(j-1)` comes out of a ReLU
and is non-negative. If then no entry of `W^(j-1)` is negative, bias included, so is no pre-activation, the ReLU is the
identity, and `W^j h^j = (W^j W^(j-1)) h^(j-1)` for every x: the layer is *inactive* and merges with the next. Nothing
follows for two matrices. `W^0` meets x itself, which may be negative, so its ReLU may cut off even if all weights are
positive; and behind `W^l` there is no ReLU to lose. Hence the penalised matrices are `W^1 ... W^(l-1)`. Merging keeps
this reasoning valid: the merged matrix still reads `h^(j-1)`, and its entries decide about the next ReLU as before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autodraft.training.layer_sparsity.networks import Networks


def active_layers(networks: Networks) -> Tensor:
    """For each run, which of the penalised matrices `W^1 ... W^(l-1)` have a negative entry, `[runs, depth - 1]`."""
    flags = [(layer < 0.0).flatten(1).any(dim=1) for layer in networks.layers[1:-1]]
    empty = torch.zeros(networks.num_runs, 0, dtype=torch.bool, device=networks.layers[0].device)
    return torch.stack(flags, dim=1) if flags else empty


def sparse_depths(networks: Networks) -> Tensor:
    """Hidden layers that merging leaves in each run, `[runs]`: the first, and every active one."""
    return 1 + active_layers(networks).sum(dim=1)


def merge_inactive(networks: Networks) -> Networks:
    """The same function with every inactive layer multiplied into its successor.

    Outputs are equal up to rounding. Each layer is judged as it stands, so the result has `sparse_depths` hidden
    layers, even if a product of an active matrix and an inactive one should turn out to have no negative entry.

    Args:
        networks: of a single run; others need not have the same layers active.

    Raises:
        ValueError: there are several runs.
    """
    if networks.num_runs != 1:
        raise ValueError(f"merging takes one run at a time, not {networks.num_runs}: their depths may differ")
    first, *penalised, last = networks.layers
    merged, pending = [first], None
    for layer, is_active in zip([*penalised, last], [*active_layers(networks)[0].tolist(), True], strict=True):
        following = layer if pending is None else _product(layer, pending)
        pending = None if is_active else following
        if is_active:
            merged.append(following)
    return Networks(tuple(merged))


def _product(outer: Tensor, inner: Tensor) -> Tensor:
    """The matrix of `outer` after `inner`, both on inputs extended by a one."""
    product = torch.bmm(outer[..., :-1], inner)
    product[..., -1] += outer[..., -1]
    return product
