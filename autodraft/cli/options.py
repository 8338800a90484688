"""Options that several commands share, so that they read the same everywhere; the library checks their values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str | None, typer.Option("--model", "-m", help="Configured name, hub id or folder.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")]
Widen = Annotated[int | None, typer.Option(min=1, help="Tile the weights this many times in width.")]
Dtype = Annotated[str | None, typer.Option(help="auto, bfloat16, float16 or float32.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Backend = Annotated[str | None, typer.Option(help="Kernels: auto, native or torch.")]
BytePlanes = Annotated[
    bool | None,
    typer.Option(
        help="Drafts at 8 bits read the upper bytes of the target's float16 weights, in no memory of their own."
    ),
]
Profile = Annotated[Path | None, typer.Option("--profile", "-p", help="Draft profile that a search exported.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
