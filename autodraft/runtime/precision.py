"""In which precision to train: that of the model, unless the processor has no products for it.

PyTorch takes bfloat16 on every processor and emulates it where there are no such instructions, at a fraction of the
speed of float32.
"""

from __future__ import annotations

import torch


def fast_precision(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """`dtype`, or float32 where a CPU would emulate it."""
    emulated = device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported()  # AMX comes with it
    return torch.float32 if emulated else dtype
