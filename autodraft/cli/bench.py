"""`autodraft bench`: a profile beside every other way to decode, on this device, paired and interleaved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

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
    methods: Annotated[str | None, typer.Option(help="Names with commas between; all that can run.")] = None,
    num_prompts: Annotated[int, typer.Option(min=2, help="Prompts to measure.")] = 24,
    new_tokens: Annotated[int, typer.Option(min=8, help="New tokens per prompt.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds on every prompt; the median counts.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of prompts, and of sampling.")] = 0,
    hf: Annotated[bool, typer.Option("--hf/--no-hf", help="With or without the hf- methods.")] = True,
    output: Annotated[Path | None, typer.Option(help="Also write PATH.json, PATH.md and PATH.png.")] = None,
    as_json: options.Json = False,
    widen: options.Widen = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    backend: options.Backend = None,
    byte_planes: options.BytePlanes = None,
    revision: options.Revision = None,
) -> None:
    """Measure a profile beside our other schedulers, published methods and the generate() of transformers."""
    draft_profile = load_profile(profile)
    loaded = load_target(
        model,
        draft_profile,
        widen=widen,
        dtype=dtype,
        device=device,
        backend=backend,
        revision=revision,
        byte_planes=byte_planes,
    )
    if draft_profile is not None:
        warn_of_other_device(loaded, draft_profile)
    from autodraft.measure.bench import chosen_methods, run_bench

    named = None if methods is None else [name.strip() for name in methods.split(",")]
    report = run_bench(
        loaded,
        draft_profile,
        methods=chosen_methods(named, hf=hf),
        prompts=prompts,
        tasks=tuple(task or ()),
        num_prompts=num_prompts,
        new_tokens_per_prompt=new_tokens,
        repeats=repeats,
        temperature=temperature,
        seed=seed,
        on_progress=lambda line: typer.echo(line, err=True),
    )
    document = report.to_json()
    if output is not None:
        _write(output, document)
    if as_json:
        typer.echo(json.dumps(document, indent=2, allow_nan=False))
        return
    from rich.console import Console

    from autodraft.report.bench_table import bench_renderable

    Console().print(bench_renderable(document))


def _write(output: Path, document: dict[str, Any]) -> None:
    """JSON, the Markdown made from it, and the bars."""
    from autodraft.report.bench_plot import plot_speedups
    from autodraft.report.bench_table import bench_markdown
    from autodraft.report.files import report_file, write_document

    image, title = report_file(output, ".png"), f"# Decoding speed: {document['model']}\n\n"
    write_document(output, document, lambda written: title + bench_markdown(written, image.name))
    plot_speedups(document, image)
    typer.echo(f"written: {report_file(output, '.json')}, .md and .png", err=True)
