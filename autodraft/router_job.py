"""`RouterJob`: everything that decides the training of a router; values in, checked values out.

Knows nothing of torch, models or training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from autodraft.configuration import RUNS_FOLDER, TargetSettings, checked_settings


class RouterJob(TargetSettings):
    """One training of a router over the blocks of an unchanged target, or over refitted copies of them."""

    cost: float = Field(default=0.5, gt=0, le=1, description="share of the blocks that a token runs on average")
    unit: Literal["block", "sub-layer"] = Field(default="sub-layer", description="what one step of a route runs")
    reuse: int = Field(default=0, ge=0, description="steps that a route may go back; 1 repeats the block just run")
    most_steps: int | None = Field(default=None, ge=1, description="steps of a route at most; null: one per block")
    train_blocks: bool = Field(
        default=False, description="refit copies of the blocks together with the router; the target stays as it is"
    )
    bits: Literal[4, 8, 16] = Field(default=16, description="bit-width of the draft's blocks and of its head")
    learning_rate: float = Field(default=4e-3, gt=0, description="highest one of refitted blocks, by Muon")
    width: int = Field(default=32, ge=1, le=1024, description="hidden units of the router")
    start: str | None = Field(
        default=None, description="policy whose route is the first one; null finds one of this cost"
    )
    steps: int = Field(default=600, ge=1, description="training steps")
    rows_per_step: int = Field(default=1024, ge=16, description="tokens whose routes are tried in a step")
    sequences: int = Field(default=384, ge=2, description="continuations of the target to learn from")
    prompt_tokens: int = Field(default=64, ge=1, description="tokens of text before each of them")
    new_tokens: int = Field(default=96, ge=1, description="tokens of each of them")
    passed_keys: Literal["masked", "projected"] = Field(
        default="masked", description="what the profile's draft does for keys of a block that a drafted token passed by"
    )
    text: tuple[Path, ...] = Field(default=(), description="text files of the prompts; empty is Python's own library")
    seed: int = Field(default=0, ge=0, description="seed of everything that is drawn")
    output: Path | None = Field(default=None, description="folder of router and logs; null names it by the model")

    @model_validator(mode="after")
    def _routes_fit(self) -> RouterJob:
        if self.train_blocks and self.reuse:
            raise ValueError("blocks are refitted on routes that go forward only: leave out either of them")
        return self

    @property
    def output_folder(self) -> Path:
        """Where router, checkpoint, curve and logs go."""
        return RUNS_FOLDER / f"{self.folder_name}-router" if self.output is None else self.output


def router_job(settings: Mapping[str, Any]) -> RouterJob:
    """The job of these settings; an unknown or impossible one is an `InputError`."""
    return checked_settings(RouterJob, settings, "training of a router")
