"""Hugging Face `generate` as contestants: plain and with each of its assistants, in the best settings of a trial.

Knows nothing of our runtime beyond loading the same checkpoint. Decode time begins when the first tokens are there. To
take the time of a generation of one token from the total would leave noise where a prefill takes far longer than
decoding, as it does in 16 bits on processors without instructions for them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from autodraft.decoding import GREEDY, SamplingConfig
from autodraft.errors import AutodraftError
from autodraft.measure.hf_pruned import depth_pruned, spread_blocks
from autodraft.measure.speedup import Contestant, Run, prompt_seed
from autodraft.runtime import LoadedModel, load_hf_model

ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")
PROMPT_LOOKUP_TOKENS = 8
HF_METHODS = ("hf-generate", "hf-prompt-lookup", "hf-early-exit", "hf-assistant")
_EXIT_DEPTHS = (0.25, 0.5)
_KEPT_SHARES = (0.25, 0.5, 0.75)
_TRIAL_TOKENS, _TRIAL_PROMPT_TOKENS = 8, 16
"""Of a prompt only so many, for its prefill may take far longer than decoding."""
_MODE_TRIAL_TOKENS = 24
_LONG_TRIAL_S = 1.0
_MOST_PREFILL = 0.95
_SETTLING_S = 0.02


class HFModeUnavailableError(AutodraftError):
    """Transformers cannot generate in this mode with this model; the message says why."""


@dataclass(frozen=True)
class HFMode:
    """One way to call `generate`.

    Attributes:
        options: keyword arguments of the call.
        settings: what they mean, for the record.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)


class HFBaseline:
    """The target as a plain Hugging Face model, in the fastest settings that a short trial finds.

    The trial tries every attention implementation, and on a CPU the process's threads and, unless that takes long, a
    single one: a small model, or one whose cores are shared, is often faster with one. Sampled output is that of
    transformers' own generator, seeded for each prompt.
    """

    def __init__(
        self, loaded: LoadedModel, trial_prompt: Sequence[int], sampling: SamplingConfig = GREEDY, seed: int = 0
    ) -> None:
        self._model = load_hf_model(loaded)
        self._num_blocks: int = self._model.config.num_hidden_layers
        self._eos = sorted(loaded.generation_eos)
        self._trial_prompt = tuple(trial_prompt)
        self._sampling, self._seed = _sampling_options(sampling), seed
        self._threads = torch.get_num_threads()
        on_cpu = loaded.runtime.device.type == "cpu"
        trials = self._try_settings(list(dict.fromkeys((self._threads, 1))) if on_cpu else [self._threads])
        self.attention, self._threads = min(trials, key=lambda setting: _seconds(trials[setting]))
        self._trial_run = trials[self.attention, self._threads]
        self._model.set_attn_implementation(self.attention)

    def _try_settings(self, threads: Sequence[int]) -> dict[tuple[str, int], Run]:
        """(attention implementation, threads) -> a short generation."""
        trials: dict[tuple[str, int], Run] = {}
        prompt = self._trial_prompt[-_TRIAL_PROMPT_TOKENS:]
        for name in ATTENTION_IMPLEMENTATIONS:
            try:
                self._model.set_attn_implementation(name)
                for self._threads in threads:
                    if min(map(_seconds, trials.values()), default=0.0) > _LONG_TRIAL_S and self._threads < threads[0]:
                        continue
                    self.run(prompt, 2)
                    trials[name, self._threads] = self._trial(prompt, _TRIAL_TOKENS)
            except (ValueError, ImportError, NotImplementedError):
                continue
        return trials

    def _trial(self, prompt: Sequence[int], num_tokens: int, **options: Any) -> Run:
        """A short generation, the better one of two; the only one where that takes long."""
        runs: list[Run] = []
        while len(runs) < 2 and sum(map(_seconds, runs)) < _LONG_TRIAL_S:
            runs.append(self.run(prompt, num_tokens, **options))
        return min(runs, key=_seconds)

    def seconds(self, prompt_tokens: int, new_tokens: int) -> float:
        """What plain generation takes with the chosen settings, going by the trial."""
        run, tried = self._trial_run, min(len(self._trial_prompt), _TRIAL_PROMPT_TOKENS)
        return prompt_tokens / tried * run.prefill_s + new_tokens / len(run.tokens) * run.decode_s

    def contestants(self) -> dict[str, Contestant]:
        """Plain generation, and generation with prompt lookup."""
        return {name: self.contestant(self.modes(name)[0]) for name in HF_METHODS[:2]}

    def contestant(self, mode: HFMode) -> Contestant:
        """Generation in a mode."""
        return lambda prompt, max_new_tokens: self.run(prompt, max_new_tokens, **mode.options)

    def settings(self, name: str, mode: HFMode | None = None) -> dict[str, str]:
        """What a contestant ran with, for the record; `mode` where there are several of that name."""
        mode = mode or self.modes(name)[0]
        sampling = {option: str(value) for option, value in self._sampling.items() if self._sampling["do_sample"]}
        return {"attn_implementation": self.attention, "threads": str(self._threads), **mode.settings, **sampling}

    def modes(self, name: str) -> list[HFMode]:
        """Every way of running one of `HF_METHODS` that is worth a trial."""
        if name == "hf-generate":
            return [HFMode()]
        if name == "hf-prompt-lookup":
            options = {"prompt_lookup_num_tokens": PROMPT_LOOKUP_TOKENS}
            return [HFMode(options, {name: str(value) for name, value in options.items()})]
        if name == "hf-early-exit":
            exits = sorted({max(round(share * self._num_blocks), 1) for share in _EXIT_DEPTHS})
            return [HFMode({"assistant_early_exit": depth}, {"assistant_early_exit": str(depth)}) for depth in exits]
        if name == "hf-assistant":
            counts = sorted({max(round(share * self._num_blocks), 1) for share in _KEPT_SHARES})
            return [self._assisted(spread_blocks(self._num_blocks, count)) for count in counts]
        raise ValueError(f"{name!r} is none of {HF_METHODS}")

    def _assisted(self, kept: Sequence[int]) -> HFMode:
        blocks = " ".join(map(str, kept))
        return HFMode({"assistant_model": depth_pruned(self._model, kept)}, {"blocks of the assistant": blocks})

    def fastest_mode(self, name: str) -> HFMode:
        """The mode of a name that a short trial finds fastest.

        Raises:
            HFModeUnavailableError: with what transformers said of the last one, where none of them runs.
        """
        seconds: list[tuple[float, HFMode]] = []
        problem = "nothing to try"
        try:
            modes = self.modes(name)
        except AutodraftError as error:
            raise HFModeUnavailableError(str(error)) from error
        for mode in modes:
            try:
                run = self._trial(self._trial_prompt, _MODE_TRIAL_TOKENS, **mode.options)
                seconds.append((_seconds(run), mode))
            except Exception as error:  # transformers has no one type for "this model cannot do that"
                problem = f"transformers: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
                self._model.config.num_hidden_layers = self._num_blocks  # a failed early exit leaves its own
        if not seconds:
            raise HFModeUnavailableError(problem)
        return min(seconds, key=lambda pair: pair[0])[1]

    def run(self, prompt: Sequence[int], max_new_tokens: int, **options: Any) -> Run:
        """One generation, with its own number of threads."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            total_s, tokens, first = self._generate(prompt, max_new_tokens, options)
        finally:
            torch.set_num_threads(threads)
        time.sleep(_SETTLING_S)  # PyTorch's threads spin on for a while, at the cost of whoever comes next
        if len(tokens) == first.tokens:  # a speculative mode may have them all at once
            return Run(tuple(tokens), _MOST_PREFILL * total_s, (1 - _MOST_PREFILL) * total_s)
        # Of several first tokens all but one count as if they had taken what the later ones did.
        decode_s = (total_s - first.seconds) * (len(tokens) - 1) / (len(tokens) - first.tokens)
        return Run(tuple(tokens), first.seconds, decode_s)

    @torch.inference_mode()
    def _generate(
        self, prompt: Sequence[int], max_new_tokens: int, options: dict[str, Any]
    ) -> tuple[float, list[int], _FirstTokens]:
        """Seconds of all of it, the new tokens, and when the first were there."""
        device = self._model.device
        ids = torch.tensor([list(prompt)], device=device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(prompt_seed(prompt, self._seed))
            _synchronise(ids)
            first = _FirstTokens(len(prompt))
            output = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                eos_token_id=self._eos or None,
                pad_token_id=self._eos[0] if self._eos else 0,
                stopping_criteria=[first],
                **self._sampling,
                **options,
            )
            _synchronise(output)
            seconds = first.since_start
        return seconds, output[0, len(prompt) :].tolist(), first


class _FirstTokens:
    """A stopping criterion of transformers that stops nothing and looks at the clock when it is first asked.

    Attributes:
        tokens: new ones by then.
        seconds: since it was made.
    """

    def __init__(self, prompt_tokens: int) -> None:
        self._prompt_tokens, self._started = prompt_tokens, time.perf_counter()
        self.tokens, self.seconds = 0, 0.0

    @property
    def since_start(self) -> float:
        return time.perf_counter() - self._started

    def __call__(self, ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        if not self.tokens:
            _synchronise(ids)
            self.tokens, self.seconds = ids.shape[1] - self._prompt_tokens, self.since_start
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)


def _seconds(run: Run) -> float:
    return run.prefill_s + run.decode_s


def _sampling_options(sampling: SamplingConfig) -> dict[str, Any]:
    """The same distribution for `generate`, whose own defaults would cut it off at 50 tokens."""
    if sampling.is_greedy:
        return {"do_sample": False}
    return {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "repetition_penalty": sampling.repetition_penalty,
    }


def _synchronise(tensor: torch.Tensor) -> None:
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
