"""`autodraft analyze`: how much each sub-layer of a model contributes to its own output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autodraft.cli import options
from autodraft.cli.failures import reported_failures

if TYPE_CHECKING:
    from autodraft.runtime import LoadedModel

_PROMPT_TOKENS, _CONTINUATION_TOKENS = 96, 32


@reported_failures()
def analyze(
    model: options.Model = "llama",
    prompts: Annotated[Path | None, typer.Option(help="JSON Lines of texts; default: the calibration texts.")] = None,
    tokens: Annotated[int, typer.Option(min=32, help="Tokens of continuations to look at.")] = 1024,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the profile to this path as .json and .png.")
    ] = None,
    widen: options.Widen = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    backend: options.Backend = None,
    revision: options.Revision = None,
    as_json: options.Json = False,
) -> None:
    """Profile the residual branches: the norm of what each sub-layer adds over the norm of its output, per token."""
    from autodraft.cli.loading import load_target

    loaded = load_target(
        model, None, widen=widen, dtype=dtype, device=device, backend=backend, revision=revision
    )  # fmt: skip
    document = _profile(loaded, prompts, tokens)
    if output is not None:
        from autodraft.report.files import report_file
        from autodraft.report.residual_plot import plot_residual

        output.parent.mkdir(parents=True, exist_ok=True)
        report_file(output, ".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        plot_residual(document, report_file(output, ".png"))
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    from rich.console import Console

    from autodraft.report.residual_table import residual_renderable

    Console().print(residual_renderable(document))


def _profile(loaded: LoadedModel, prompts: Path | None, tokens: int) -> dict[str, Any]:
    """The profile as JSON, over greedy continuations of the texts."""
    from autodraft.measure.agreement import AgreementMeter
    from autodraft.measure.prompts import calibration_prompts, encode_prompts, read_prompts
    from autodraft.measure.residual import residual_profile, residual_ratios

    texts = calibration_prompts() if prompts is None else read_prompts(prompts)
    encoded = encode_prompts(texts, loaded.tokenizer, _PROMPT_TOKENS)
    count = max(tokens // _CONTINUATION_TOKENS, 1)
    meter = AgreementMeter(
        loaded.runtime, [prompt.tokens for prompt in encoded[:count]], _CONTINUATION_TOKENS, eos=loaded.generation_eos
    )
    name = loaded.name if loaded.widen == 1 else f"{loaded.name} (widened {loaded.widen} times)"
    return {"model": name, **residual_profile(residual_ratios(meter)).to_json()}
