"""`DraftFitter`: fitted drafts of one target in files, each fitted once and only where the time for it is there.

Knows nothing of which policies are worth it.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from math import inf
from pathlib import Path

import torch

from autodraft.fitting.closed_form import fit_draft, windows_of
from autodraft.policy import DraftPolicy
from autodraft.profile_parts import WeightsFile
from autodraft.runtime import LoadedModel, ModelSpec, load_hf_model
from autodraft.runtime.draft_weights import kept_sub_layers, save_draft_weights, target_matrices
from autodraft.runtime.hf_weights import read_weights
from autodraft.runtime.memory import available_bytes
from autodraft.runtime.precision import fast_precision
from autodraft.runtime.weights import TargetWeights

_WINDOW = 256
_MOST_TOKENS = (16_384, 2_048)
"""Of text that a fit is tried with; fewer where more would take too long."""


class _TooSlow(Exception):
    """Ends a fit that would not be done in time."""


class DraftFitter:
    """Fits drafts on texts and keeps their weights in a folder.

    A widened target is fitted in its narrow form, of which the weights are then tiled.

    Args:
        loaded: the target.
        texts: token ids.
        folder: of the files.
    """

    def __init__(self, loaded: LoadedModel, texts: Sequence[Sequence[int]], folder: Path) -> None:
        self._loaded, self._texts, self._folder = loaded, texts, folder

    def fit(self, policy: DraftPolicy, seconds: float | None = None) -> WeightsFile | None:
        """The weights of a policy that `can_fit`; None where `seconds`, memory or disk are not enough for it.

        A draft that was fitted before is taken from its file, which costs nothing.
        """
        path = self._folder / f"fitted-{self._identity(policy)}.safetensors"
        if path.is_file():
            return WeightsFile.of(path, self._folder)
        deadline = inf if seconds is None else time.monotonic() + seconds
        if deadline <= time.monotonic() or not self._has_room(policy):
            return None
        for most_tokens in _MOST_TOKENS:
            try:
                return self._fitted(policy, path, most_tokens, deadline)
            except _TooSlow:
                continue
            except (torch.OutOfMemoryError, MemoryError):
                return None
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
                return None  # numbers overflow in this model
        return None

    def _fitted(self, policy: DraftPolicy, path: Path, most_tokens: int, deadline: float) -> WeightsFile:
        started = time.monotonic()

        def check(done: int, total: int) -> None:
            if started + (time.monotonic() - started) / done * total > deadline:
                raise _TooSlow

        spec, weights = self._narrow
        windows = windows_of(self._texts, min(_WINDOW, spec.max_positions), most_tokens)
        dtype = fast_precision(weights.embedding.dtype, weights.embedding.device)
        matrices = fit_draft(spec, weights, policy, windows, dtype=dtype, on_step=check)
        return save_draft_weights(matrices, path, self._loaded.runtime.dtype)

    def _has_room(self, policy: DraftPolicy) -> bool:
        """Whether the matrices fit on the disk, and into memory twice, as they are made and as they are run."""
        spec, weights = self._narrow
        matrices = target_matrices(weights, spec, kept_sub_layers(policy)).values()
        size = sum(matrix.nbytes for matrix in matrices) + weights.head.nbytes
        memory = available_bytes(weights.embedding.device)
        wide = self._loaded.widen**2
        return shutil.disk_usage(self._folder).free > 2 * size and (memory is None or memory > 2 * (1 + wide) * size)

    @cached_property
    def _narrow(self) -> tuple[ModelSpec, TargetWeights]:
        if self._loaded.widen == 1:
            return self._loaded.runtime.spec, self._loaded.runtime.weights
        model = load_hf_model(replace(self._loaded, widen=1))
        spec = ModelSpec.from_config(model.config)
        return spec, read_weights(model, spec)

    def _identity(self, policy: DraftPolicy) -> str:
        """Changes with everything that a fit depends on."""
        facts = (self._loaded.fingerprint["weights"], policy.digest, [list(text) for text in self._texts])
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
