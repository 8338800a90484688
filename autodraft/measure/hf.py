"""Hugging Face `generate` as contestants: greedy, and with its own prompt lookup, in its best settings.

Knows nothing of our runtime beyond loading the same checkpoint. Decode time is the total of a generation minus the
time of a generation of one token on the same prompt.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from autodraft.measure.speedup import Contestant, Run
from autodraft.runtime import LoadedModel, load_hf_model

ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager")
PROMPT_LOOKUP_TOKENS = 8
_TRIAL_TOKENS = 8
_MOST_PREFILL = 0.95


class HFBaseline:
    """The target as a plain Hugging Face model, in the fastest settings that a short trial finds.

    The trial tries every attention implementation, and on a CPU the process's threads and a single one: a small
    model, or one whose cores are shared, is often faster with one.
    """

    def __init__(self, loaded: LoadedModel, trial_prompt: Sequence[int]) -> None:
        self._model = load_hf_model(loaded)
        self._eos = sorted(loaded.generation_eos)
        self._threads = torch.get_num_threads()
        on_cpu = loaded.runtime.device.type == "cpu"
        self.trial_s = self._try_settings(trial_prompt, sorted({self._threads, 1}) if on_cpu else [self._threads])
        self.attention, self._threads = min(self.trial_s, key=lambda setting: self.trial_s[setting])
        self._model.set_attn_implementation(self.attention)

    def _try_settings(self, prompt: Sequence[int], threads: Sequence[int]) -> dict[tuple[str, int], float]:
        """(attention implementation, threads) -> seconds of a short generation, prefill included, best of two."""
        seconds: dict[tuple[str, int], float] = {}
        for name in ATTENTION_IMPLEMENTATIONS:
            try:
                self._model.set_attn_implementation(name)
                for self._threads in threads:
                    self.run(prompt, 2)
                    runs = [self.run(prompt, _TRIAL_TOKENS) for _ in range(2)]
                    seconds[name, self._threads] = min(run.prefill_s + run.decode_s for run in runs)
            except (ValueError, ImportError, NotImplementedError):
                continue
        return seconds

    @property
    def token_s(self) -> float:
        """Seconds per token with the chosen settings, prefill spread over the trial's tokens: an upper bound."""
        return self.trial_s[self.attention, self._threads] / _TRIAL_TOKENS

    def contestants(self) -> dict[str, Contestant]:
        """Greedy generation, and greedy generation with prompt lookup."""
        return {
            "hf-generate": self.run,
            "hf-prompt-lookup": lambda prompt, n: self.run(prompt, n, prompt_lookup_num_tokens=PROMPT_LOOKUP_TOKENS),
        }

    def settings(self, name: str) -> dict[str, str]:
        """What a contestant ran with, for the record."""
        settings = {"attn_implementation": self.attention, "threads": str(self._threads)}
        if name == "hf-prompt-lookup":
            settings["prompt_lookup_num_tokens"] = str(PROMPT_LOOKUP_TOKENS)
        return settings

    def run(self, prompt: Sequence[int], max_new_tokens: int, **options: Any) -> Run:
        """One greedy generation, with its own number of threads."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            prefill_s, _ = self._generate(prompt, 1, options)
            total_s, tokens = self._generate(prompt, max_new_tokens, options)
            if prefill_s > total_s / 2:  # perhaps a hiccup; it would make decoding look free
                prefill_s = min(prefill_s, self._generate(prompt, 1, options)[0], _MOST_PREFILL * total_s)
        finally:
            torch.set_num_threads(threads)
        return Run(tuple(tokens), prefill_s, total_s - prefill_s)

    @torch.inference_mode()
    def _generate(self, prompt: Sequence[int], max_new_tokens: int, options: dict[str, Any]) -> tuple[float, list[int]]:
        ids = torch.tensor([list(prompt)], device=self._model.device)
        _synchronise(ids)
        started = time.perf_counter()
        output = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self._eos or None,
            pad_token_id=self._eos[0] if self._eos else 0,
            **options,
        )
        _synchronise(output)
        return time.perf_counter() - started, output[0, len(prompt) :].tolist()


def _synchronise(tensor: torch.Tensor) -> None:
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
