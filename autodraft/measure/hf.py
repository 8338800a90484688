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


class HFBaseline:
    """The target as a plain Hugging Face model, with the faster attention implementation chosen by measuring."""

    def __init__(self, loaded: LoadedModel, trial_prompt: Sequence[int]) -> None:
        self._model = load_hf_model(loaded)
        self._eos = sorted(loaded.generation_eos)
        self.trial_s = self._time_implementations(trial_prompt)
        self.attention = min(self.trial_s, key=lambda name: self.trial_s[name])
        self._model.set_attn_implementation(self.attention)

    def _time_implementations(self, prompt: Sequence[int]) -> dict[str, float]:
        """Decode seconds of a short generation with each implementation that works, best of two."""
        seconds: dict[str, float] = {}
        for name in ATTENTION_IMPLEMENTATIONS:
            try:
                self._model.set_attn_implementation(name)
                self.run(prompt, 2)
                seconds[name] = min(self.run(prompt, _TRIAL_TOKENS).decode_s for _ in range(2))
            except (ValueError, ImportError, NotImplementedError):
                continue
        return seconds

    def contestants(self) -> dict[str, Contestant]:
        """Greedy generation, and greedy generation with prompt lookup."""
        return {
            "hf-generate": self.run,
            "hf-prompt-lookup": lambda prompt, n: self.run(prompt, n, prompt_lookup_num_tokens=PROMPT_LOOKUP_TOKENS),
        }

    def settings(self, name: str) -> dict[str, str]:
        """What a contestant ran with, for the record."""
        settings = {"attn_implementation": self.attention}
        if name == "hf-prompt-lookup":
            settings["prompt_lookup_num_tokens"] = str(PROMPT_LOOKUP_TOKENS)
        return settings

    def run(self, prompt: Sequence[int], max_new_tokens: int, **options: Any) -> Run:
        """One greedy generation."""
        prefill_s, _ = self._generate(prompt, 1, options)
        total_s, tokens = self._generate(prompt, max_new_tokens, options)
        return Run(tuple(tokens), prefill_s, max(total_s - prefill_s, 1e-9))

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
