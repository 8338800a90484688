"""`SparsifyJob`: everything that decides how sub-layers are removed and the rest refitted; checked values only.

Knows nothing of torch, models or training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from autodraft.configuration import RUNS_FOLDER, TargetSettings, checked_settings


class SparsifyJob(TargetSettings):
    """One removal of sub-layers, and the refit after it."""

    keep: float | None = Field(default=None, description="share of the sub-layers that is kept")
    policy: str | None = Field(
        default=None,
        description='what is kept, as "F. .F(8) ... | head 16", in place of `keep` and its penalty',
    )
    as_draft: bool = Field(default=False, description="refit a draft for the unchanged target, no smaller target")
    bits: Literal[4, 8, 16] = Field(default=16, description="bit-width that the draft is trained for and runs at")
    steps: int = Field(default=600, ge=2, description="training steps, those under the penalty included")
    learning_rate: float = Field(default=4e-3, gt=0, description="highest one of the matrices, by Muon")
    tokens_per_step: int = Field(default=1024, ge=16, description="tokens of text in a step")
    window_tokens: int = Field(default=256, ge=8, description="tokens of a training window")
    text: tuple[Path, ...] = Field(default=(), description="text files to train on; empty is Python's own library")
    seed: int = Field(default=0, ge=0, description="seed of the windows")
    output: Path | None = Field(default=None, description="folder of the result; null names it by the model")

    @model_validator(mode="after")
    def _consistent(self) -> SparsifyJob:
        if (self.keep is None) == (self.policy is None):
            raise ValueError("say what is kept, by 'keep' or by 'policy'")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ValueError(f"keep is {self.keep:g}; it is a share of the sub-layers, above 0 and at most 1")
        if not self.as_draft and self.bits != 16:
            raise ValueError("'bits' are for drafts: add as_draft")
        if not self.as_draft and self.widen > 1:
            raise ValueError("'widen' is for drafts: a smaller target is made of the checkpoint as it is")
        if self.tokens_per_step < self.window_tokens:
            raise ValueError("tokens_per_step must hold at least one window of window_tokens")
        return self

    @property
    def output_folder(self) -> Path:
        """Where the checkpoint of the training, the result and its report go."""
        kind = "draft" if self.as_draft else "sparse"
        return RUNS_FOLDER / f"{self.folder_name}-{kind}" if self.output is None else self.output


def sparsify_job(settings: Mapping[str, Any]) -> SparsifyJob:
    """The job of these settings; an unknown or impossible one is an `InputError`."""
    return checked_settings(SparsifyJob, settings, "sparsify")
