"""A Hugging Face model with some of its blocks left out, over the very same weights: an assistant for `generate`.

Knows nothing of generating.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from autodraft.errors import UnsupportedModelError

_BY_BLOCK = ("layer_types", "no_rope_layers")  # settings with an entry for each block


def spread_blocks(num_blocks: int, num_kept: int) -> list[int]:
    """`num_kept` blocks evenly spread, the first and (from two on) the last among them."""
    return [int(index) for index in np.linspace(0, num_blocks - 1, num_kept).round()]


def depth_pruned(model: Any, kept: Sequence[int]) -> Any:
    """A copy of a causal language model with only the blocks in `kept`; shares every weight with `model`.

    Raises:
        UnsupportedModelError: the model's blocks cannot be told.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    pruned = copy.deepcopy(model, shared)
    name = _name_of_blocks(pruned)
    blocks = pruned.get_submodule(name)
    remaining = nn.ModuleList(blocks[index] for index in kept)
    for number, block in enumerate(remaining):
        for module in block.modules():
            if hasattr(module, "layer_idx"):  # where the block's keys are in the cache
                setattr(module, "layer_idx", number)  # noqa: B010 - typed as a module
    parent, _, attribute = name.rpartition(".")
    setattr(pruned.get_submodule(parent), attribute, remaining)
    pruned.config.num_hidden_layers = len(kept)
    for setting in _BY_BLOCK:
        of_blocks = getattr(pruned.config, setting, None)
        if of_blocks:
            setattr(pruned.config, setting, [of_blocks[index] for index in kept])
    return pruned


def _name_of_blocks(model: Any) -> str:
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return str(name)
    raise UnsupportedModelError(f"{type(model).__name__}: no list of {model.config.num_hidden_layers} blocks in it")
