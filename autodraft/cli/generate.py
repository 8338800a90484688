"""`autodraft generate`: text on stdout as it is decoded, how fast it was on stderr."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autodraft.cli import options
from autodraft.cli.comparison import compare_with_autoregressive
from autodraft.cli.failures import reported_failures
from autodraft.cli.loading import load_profile, load_target, warn_of_other_device
from autodraft.errors import InputError

if TYPE_CHECKING:
    from autodraft.decoding import CascadeDecoder, Generation, SamplingConfig
    from autodraft.profile import DraftProfile
    from autodraft.runtime import LoadedModel


class OnTheFlyMode(StrEnum):
    """How --on-the-fly looks for drafts."""

    swift = "swift"
    knapsack = "knapsack"


@reported_failures()
def generate(
    model: options.Model = None,
    profile: options.Profile = None,
    prompt: Annotated[str | None, typer.Option(help="The prompt; without it, stdin is read.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="Read the prompt from a file.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="New tokens at most.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="0 is off.")] = 0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="1 is off.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Makes sampled output reproducible.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this string; may be repeated.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Decode again, also autoregressively, and print the measured speedup.")
    ] = False,
    on_the_fly: Annotated[
        bool,
        typer.Option("--on-the-fly", help="Look for a draft while decoding, starting from the profile's if given."),
    ] = False,
    on_the_fly_mode: Annotated[
        OnTheFlyMode, typer.Option(help="How: random and Bayesian proposals, or a knapsack over hidden states.")
    ] = OnTheFlyMode.swift,
    save_profile: Annotated[
        Path | None, typer.Option(help="Save the draft that --on-the-fly has found as a profile.")
    ] = None,
    widen: options.Widen = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    backend: options.Backend = None,
    byte_planes: options.BytePlanes = None,
    revision: options.Revision = None,
) -> None:
    """Continue a prompt with a profile's cascade or a draft found on the fly; without either, autoregressively."""
    if compare and profile is None and not on_the_fly:
        raise InputError("--compare needs a --profile or --on-the-fly to compare with autoregressive decoding")
    if save_profile is not None and not on_the_fly:
        raise InputError("--save-profile needs --on-the-fly: there is nothing else to save")
    text = _read_prompt(prompt, prompt_file)
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
    from autodraft.decoding import SamplingConfig

    decoder = _decoder(loaded, draft_profile, on_the_fly_mode if on_the_fly else None)
    tokens = _encode(loaded, text, chat)
    sampling = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    generation = _stream(loaded, decoder, tokens, max_new_tokens, sampling, seed, stop or [])
    _print_stats(generation)
    if on_the_fly:
        _report_found(loaded, decoder, on_the_fly_mode, save_profile)
    if compare:
        comparison = compare_with_autoregressive(decoder, tokens, len(generation.tokens), sampling, seed)
        typer.echo(comparison, err=True)


def _decoder(loaded: LoadedModel, profile: DraftProfile | None, on_the_fly: OnTheFlyMode | None) -> CascadeDecoder:
    """What the options ask for."""
    from autodraft.decoding import CascadeDecoder

    if profile is not None:
        decoder = CascadeDecoder.from_profile(loaded, profile)
        warn_of_other_device(loaded, profile)
        if on_the_fly is None:
            return decoder
    if on_the_fly is None:
        return CascadeDecoder(loaded.runtime)
    from autodraft.decoding.on_the_fly import OnTheFlyDrafter, OnTheFlySettings

    start = profile.cascade.policies[0] if profile is not None and profile.cascade.policies else None
    drafter = OnTheFlyDrafter(loaded.runtime, OnTheFlySettings(mode=on_the_fly.value), start_policy=start)
    return CascadeDecoder(loaded.runtime, drafter=drafter)


def _report_found(loaded: LoadedModel, decoder: CascadeDecoder, mode: OnTheFlyMode, save_to: Path | None) -> None:
    """What was found on the fly, on stderr, and into a profile if asked for."""
    from autodraft.decoding.on_the_fly import OnTheFlyDrafter
    from autodraft.search.found_profile import profile_of_found

    drafter = decoder.drafter
    assert isinstance(drafter, OnTheFlyDrafter)
    found = drafter.found()
    promise = "not judged yet" if found.score is None else f"predicted {found.score.speedup:.2f}x"
    typer.echo(
        f"draft {found.cascade.policies[0]} ({promise}) after {found.steps} candidates in "
        f"{found.time_share:.0%} of the time",
        err=True,
    )
    if save_to is not None:
        profile_of_found(loaded, found, mode.value, drafter.settings.seed).save(save_to)
        typer.echo(f"saved as {save_to}", err=True)


def _read_prompt(prompt: str | None, prompt_file: Path | None) -> str:
    if prompt is not None and prompt_file is not None:
        raise InputError("give --prompt or --prompt-file, not both")
    if prompt_file is not None:
        try:
            prompt = prompt_file.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"{prompt_file}: cannot read the prompt ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{prompt_file}: the prompt is not UTF-8 text") from error
    if prompt is None:
        if sys.stdin.isatty():
            raise InputError("no prompt: give --prompt or --prompt-file, or pipe it to stdin")
        try:
            prompt = sys.stdin.read()
        except UnicodeDecodeError as error:
            raise InputError("the prompt on stdin is not UTF-8 text") from error
    if not prompt:
        raise InputError("the prompt is empty: there is nothing to continue")
    return prompt


def _encode(loaded: LoadedModel, text: str, chat: bool) -> list[int]:
    if not chat:
        return list(loaded.tokenizer(text)["input_ids"])
    if not loaded.tokenizer.chat_template:
        raise InputError(f"--chat: {loaded.name} has no chat template")
    messages = [{"role": "user", "content": text}]
    return list(loaded.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


def _stream(
    loaded: LoadedModel,
    decoder: CascadeDecoder,
    tokens: list[int],
    max_new_tokens: int,
    sampling: SamplingConfig,
    seed: int | None,
    stop: list[str],
) -> Generation:
    """Decode, and print text as soon as no later token can take it back."""
    from autodraft.decoding import StopStrings

    text = StopStrings(loaded.tokenizer, stop)

    def show(final: bool = False) -> None:
        sys.stdout.write(text.printable(final=final))
        sys.stdout.flush()

    generation = decoder.generate(
        tokens,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        eos=loaded.generation_eos,
        stop=text,
        on_tokens=lambda _: show(),
        seed=seed,
    )
    show(final=True)
    sys.stdout.write("\n")
    return generation


def _print_stats(generation: Generation) -> None:
    stats = generation.stats
    typer.echo(
        f"{len(generation.tokens)} tokens ({generation.finish_reason}), {stats.tokens_per_s:.1f} tokens/s, "
        f"{stats.tokens_per_cycle:.2f} tokens per cycle, prefill {1000 * stats.prefill_s:.0f} ms",
        err=True,
    )
