"""`autodraft bench`: a profile against its baselines on this device, paired and interleaved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from autodraft.cli import options
from autodraft.cli.failures import reported_failures
from autodraft.cli.loading import load_profile, load_target, warn_of_other_device


@reported_failures()
def bench(
    profile: options.Profile = None,
    model: options.Model = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON Lines in Spec-Bench's fields.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Prompt category; may be repeated.")] = None,
    num_prompts: Annotated[int, typer.Option(min=2, help="Prompts to measure.")] = 24,
    new_tokens: Annotated[int, typer.Option(min=8, help="New tokens per prompt.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of prompts.")] = 0,
    hf: Annotated[bool, typer.Option("--hf/--no-hf", help="Also measure the generate() of transformers.")] = True,
    as_json: options.Json = False,
    widen: options.Widen = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    backend: options.Backend = None,
    revision: options.Revision = None,
) -> None:
    """Measure a profile against autoregressive decoding, prompt lookup and the generate() of transformers."""
    draft_profile = load_profile(profile)
    loaded = load_target(
        model, draft_profile, widen=widen, dtype=dtype, device=device, backend=backend, revision=revision
    )
    if draft_profile is not None:
        warn_of_other_device(loaded, draft_profile)
    from autodraft.measure.bench import run_bench

    report = run_bench(
        loaded,
        draft_profile,
        prompts=prompts,
        tasks=tuple(task or ()),
        num_prompts=num_prompts,
        new_tokens_per_prompt=new_tokens,
        seed=seed,
        hf_baseline=hf,
        on_progress=lambda line: typer.echo(line, err=True),
    )
    document = report.to_json()
    if as_json:
        typer.echo(json.dumps(document, indent=2, allow_nan=False))
        return
    from rich.console import Console

    from autodraft.report.bench_table import bench_renderable

    Console().print(bench_renderable(document))
