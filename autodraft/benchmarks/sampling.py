"""Acceptance of sampled drafts by rule of verification, for the record in reports/.

Run as `python -m autodraft.benchmarks.sampling`. Knows nothing of time. The target continues held-out prompts by
sampling; at every position of the continuations the distributions of target and draft give the acceptance that each
rule would have. Rows are teacher-forced in windows, as in a cycle: a draft sees the target's keys before its window and
its own inside. What is accepted depends on the position only through these distributions, so nothing is decoded twice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autodraft.benchmarks.acceptance_rules import (
    Floats,
    coupled_agreement,
    coupled_sibling_acceptance,
    greedy_acceptance,
    rejection_sibling_acceptance,
)
from autodraft.benchmarks.writing import device_line, write_report
from autodraft.decoding import CascadeDecoder, SamplingConfig, probabilities
from autodraft.measure.device import device_stamp
from autodraft.measure.prompts import choose_prompts, encode_prompts, evaluation_prompts
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.runtime import DraftPlan, KVCache, LoadedModel, Rows, load_model

WINDOW = 4
SIBLINGS = (1, 2, 4)
RULES = ("greedy", "coupled", "rejection")
_LONGEST_PROMPT = 384
_ROWS_AT_ONCE = 96


@dataclass(frozen=True)
class _Continuation:
    """A prompt and what the target sampled after it; `num_new` is a multiple of `WINDOW`."""

    tokens: list[int]
    num_new: int

    @property
    def roots(self) -> range:
        """Positions that windows start after."""
        first = len(self.tokens) - self.num_new - 1
        return range(first, first + self.num_new, WINDOW)


def draft_policies(num_blocks: int) -> dict[str, DraftPolicy]:
    """Drafts from good to poor."""
    low = DraftPolicy.uniform(num_blocks, 4)
    half = {2 * block + kind: ChannelShares() for block in range(num_blocks // 4, num_blocks - 2, 2) for kind in (0, 1)}
    middle = {index: ChannelShares() for index in range(num_blocks // 2, 2 * num_blocks - 4)}
    return {
        "4 bits": low,
        "4 bits, half of the middle skipped": low.replace(half),
        "4 bits, the whole middle skipped": low.replace(middle),
    }


def continue_prompts(
    loaded: LoadedModel, num_prompts: int, new_tokens: int, sampling: SamplingConfig
) -> list[_Continuation]:
    """The target's own continuations, one seed per prompt."""
    decoder = CascadeDecoder(loaded.runtime)
    prompts = encode_prompts(choose_prompts(evaluation_prompts(), num_prompts), loaded.tokenizer, _LONGEST_PROMPT)
    found = []
    for seed, prompt in enumerate(prompts):
        new = decoder.generate(prompt.tokens, max_new_tokens=new_tokens, sampling=sampling, seed=seed).tokens
        found.append(_Continuation([*prompt.tokens, *new], new_tokens))
    return found


@torch.inference_mode()
def teacher_forced_logits(
    loaded: LoadedModel, plans: Sequence[DraftPlan], continuations: Sequence[_Continuation]
) -> list[Tensor]:
    """Logits of each plan for every new token, drafting window by window. [rows, vocab] each"""
    runtime, cache = loaded.runtime, loaded.runtime.new_cache()
    parts: list[list[Tensor]] = [[] for _ in plans]
    for continuation in continuations:
        cache.truncate(0)
        runtime.prefill(cache, continuation.tokens)
        for plan, logits in zip(plans, parts, strict=True):
            logits.append(runtime.forward(plan, cache, _windows(continuation, cache)).clone())
    return [torch.cat(part) for part in parts]


def _windows(continuation: _Continuation, cache: KVCache) -> Rows:
    """All windows side by side in scratch slots, each after its own part of the committed tokens."""
    positions = [root + offset for root in continuation.roots for offset in range(WINDOW)]
    slots = range(cache.length, cache.length + len(positions))
    return Rows(
        [continuation.tokens[position] for position in positions],
        positions,
        slots,
        [0] * len(positions),
        [root for root in continuation.roots for _ in range(WINDOW)],
        [slots[row - row % WINDOW : row + 1] for row in range(len(positions))],
    )


def acceptance_by_rule(
    target_probs: Floats, draft_probs: Floats, tokens: Sequence[int], samples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Mean acceptance per number of siblings, and accepted tokens of a drafted chain, of each rule.

    Args:
        target_probs: the target's distributions at the rows of whole windows. [rows, vocab]
        draft_probs: the draft's. [rows, vocab]
        tokens: what the target sampled there. [rows]
        samples: noise vectors, or draws of candidates, per row where there is no closed form.
        seed: of those.
    """
    random = np.random.default_rng(seed)
    by_siblings: dict[str, list[Floats]] = {rule: [] for rule in RULES}
    given_token: dict[str, list[Floats]] = {rule: [] for rule in RULES}
    for first in range(0, len(tokens), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        target, draft, chosen = target_probs[rows], draft_probs[rows], np.array(tokens[rows])[:, None]
        agreement = coupled_agreement(target, draft)
        coupled = coupled_sibling_acceptance(target, draft, SIBLINGS[-1], samples, random)
        coupled[:, 0] = (target * agreement).sum(axis=1)
        by_siblings["greedy"].append(greedy_acceptance(target, draft, SIBLINGS[-1]))
        by_siblings["coupled"].append(coupled)
        by_siblings["rejection"].append(rejection_sibling_acceptance(target, draft, SIBLINGS[-1], samples, random))
        # Given the token that the target emits, the probability that this very token had been drafted.
        given_token["greedy"].append((draft.argmax(axis=1) == chosen[:, 0]).astype(float))
        given_token["coupled"].append(np.take_along_axis(agreement, chosen, axis=1)[:, 0])
        ratio = np.take_along_axis(draft, chosen, axis=1) / np.take_along_axis(target, chosen, axis=1)
        given_token["rejection"].append(np.minimum(ratio, 1.0)[:, 0])
    return {
        rule: {
            "acceptance": {
                str(count): float(np.concatenate(by_siblings[rule])[:, count - 1].mean()) for count in SIBLINGS
            },
            "accepted_per_chain": _accepted_per_chain(np.concatenate(given_token[rule])),
        }
        for rule in RULES
    }


def _accepted_per_chain(given_token: Floats) -> float:
    """Expected accepted tokens of a chain of `WINDOW`: the sum over its lengths of P(all tokens so far accepted)."""
    return float(given_token.reshape(-1, WINDOW).cumprod(axis=1).sum(axis=1).mean())


def compare_rules(
    loaded: LoadedModel, temperature: float, num_prompts: int, new_tokens: int, samples: int
) -> list[dict[str, Any]]:
    """One row of results per draft."""
    sampling = SamplingConfig(temperature=temperature)
    continuations = continue_prompts(loaded, num_prompts, new_tokens, sampling)
    policies = draft_policies(loaded.runtime.spec.num_blocks)
    plans = [loaded.runtime.target, *(loaded.runtime.plan(policy) for policy in policies.values())]
    target_probs, *drafts = (
        probabilities(logits, sampling).cpu().numpy() for logits in teacher_forced_logits(loaded, plans, continuations)
    )
    tokens = [token for each in continuations for token in each.tokens[-each.num_new :]]
    results = []
    for name, draft_probs in zip(policies, drafts, strict=True):
        rules = acceptance_by_rule(target_probs, draft_probs, tokens, samples, seed=0)
        results.append({"temperature": temperature, "draft": name, "rows": len(tokens), "rules": rules})
        print(f"temperature {temperature}, {name}: {rules}", file=sys.stderr)
    return results


def markdown(document: Mapping[str, Any]) -> str:
    """The report as a person reads it."""
    lines = [
        "# Acceptance of sampled drafts",
        "",
        f"Model `{document['model']}`, {document['num_prompts']} held-out prompts, {document['new_tokens']} tokens"
        f" sampled after each; {document['samples']} draws per position where there is no closed form. Rules, all"
        " exact: greedy = the draft's most probable tokens, the target samples; coupled = target and draft share their"
        " Gumbel noise (the decoder's rule); rejection = candidates drawn from the draft without replacement, accepted"
        " against the residual distribution.",
        "",
        f"Accepted per chain: expected accepted tokens of {WINDOW} drafted ones. Predicted from teacher-forced"
        " distributions; no decoding, no time.",
        "",
        device_line(document["device"]),
        f"Command: `{document['command']}`",
        "",
        "| temperature | draft | rule | "
        + " | ".join(f"acceptance, k = {count}" for count in SIBLINGS)
        + " | accepted per chain |",
        "|---" * (4 + len(SIBLINGS)) + "|",
    ]
    for row in document["results"]:
        for rule, figures in row["rules"].items():
            shares = " | ".join(f"{figures['acceptance'][str(count)]:.3f}" for count in SIBLINGS)
            lines.append(
                f"| {row['temperature']} | {row['draft']} | {rule} | {shares} | {figures['accepted_per_chain']:.2f} |"
            )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare at each temperature, and write JSON and Markdown."""
    summary = str(__doc__).splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m autodraft.benchmarks.sampling", description=summary)
    parser.add_argument("--model", default="llama")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.7, 1.0])
    parser.add_argument("--num-prompts", type=int, default=24)
    parser.add_argument("--new-windows", type=int, default=12, help=f"windows of {WINDOW} tokens after each prompt")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("reports/sampling"), help="path without ending")
    options = parser.parse_args(arguments)
    loaded = load_model(options.model)
    new_tokens = WINDOW * options.new_windows
    results = [
        row
        for temperature in options.temperatures
        for row in compare_rules(loaded, temperature, options.num_prompts, new_tokens, options.samples)
    ]
    document = {
        "model": options.model,
        "num_prompts": options.num_prompts,
        "new_tokens": new_tokens,
        "samples": options.samples,
        "window": WINDOW,
        "device": device_stamp(loaded.runtime.device, loaded.runtime.backend).model_dump(mode="json"),
        "command": " ".join(["python -m autodraft.benchmarks.sampling", *(arguments or sys.argv[1:])]),
        "results": results,
    }
    write_report(options.output, document, markdown)


if __name__ == "__main__":
    main()
