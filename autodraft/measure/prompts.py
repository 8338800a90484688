"""Prompts and calibration texts: Spec-Bench's JSON Lines in, tokens out.

Knows nothing of models beyond a tokenizer that encodes. A line has `question_id`, `category` and `turns`, of
which the first is used. What cannot be read is an `InputError` that names file and line.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from autodraft.errors import InputError


@dataclass(frozen=True)
class Prompt:
    """One prompt: its id, its category and its text."""

    question_id: str
    category: str
    text: str


@dataclass(frozen=True)
class TokenPrompt:
    """A prompt as the model sees it."""

    question_id: str
    category: str
    tokens: tuple[int, ...]


def read_prompts(path: str | os.PathLike[str]) -> list[Prompt]:
    """All prompts of a JSON Lines file, or of every *.jsonl file of a folder."""
    source = Path(path)
    sources = sorted(source.glob("*.jsonl")) if source.is_dir() else [source]
    prompts = [prompt for file in sources for prompt in _read_file(file)]
    if not prompts:
        raise InputError(f"{source}: no prompts in it")
    return prompts


def bundled_prompts() -> list[Prompt]:
    """The held-out prompts that come with the package."""
    return read_prompts(Path(str(files("autodraft"))) / "assets" / "prompts")


def search_prompts() -> list[Prompt]:
    """Every other bundled prompt: those that a search may choose by."""
    return bundled_prompts()[::2]


def evaluation_prompts() -> list[Prompt]:
    """The other half: no search has seen them, so speedups measured on them are not the luck of the choice."""
    return bundled_prompts()[1::2]


def calibration_prompts() -> list[Prompt]:
    """The texts that importance, sensitivity and agreement are measured on; none of them is a bundled prompt."""
    return read_prompts(Path(str(files("autodraft"))) / "assets" / "calibration.jsonl")


def choose_prompts(
    prompts: Sequence[Prompt], count: int | None = None, *, tasks: Collection[str] = (), seed: int = 0
) -> list[Prompt]:
    """`count` prompts drawn without repetition, evenly over categories; the same seed draws the same."""
    groups: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        groups[prompt.category].append(prompt)
    unknown = sorted(set(tasks) - set(groups))
    if unknown:
        raise InputError(f"no prompts of the category {', '.join(unknown)}; there are {', '.join(sorted(groups))}")
    random = np.random.default_rng(seed)
    shuffled = [
        [group[index] for index in random.permutation(len(group))]
        for category, group in sorted(groups.items())
        if not tasks or category in tasks
    ]
    longest = max(map(len, shuffled), default=0)
    mixed = [group[index] for index in range(longest) for group in shuffled if index < len(group)]
    return mixed[:count]


def encode_prompts(prompts: Sequence[Prompt], tokenizer: Any, longest: int) -> list[TokenPrompt]:
    """Tokens of each prompt, cut on the left to `longest`; prompts without tokens are refused."""
    encoded = []
    for prompt in prompts:
        tokens = list(tokenizer(prompt.text)["input_ids"])[-longest:]
        if not tokens:
            raise InputError(f"prompt {prompt.question_id} has no tokens")
        encoded.append(TokenPrompt(prompt.question_id, prompt.category, tuple(int(token) for token in tokens)))
    return encoded


def _read_file(source: Path) -> list[Prompt]:
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise InputError(f"{source}: no such prompt file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: cannot read the prompts ({error})") from error
    return [_parse(line, f"{source}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]


def _parse(line: str, place: str) -> Prompt:
    try:
        document = json.loads(line)
    except ValueError as error:
        raise InputError(f"{place}: not JSON ({error})") from error
    if not isinstance(document, dict):
        raise InputError(f"{place}: a prompt is an object with question_id, category and turns")
    missing = [name for name in ("question_id", "category", "turns") if name not in document]
    if missing:
        raise InputError(f"{place}: the field {missing[0]!r} is missing")
    turns = document["turns"]
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], str) or not turns[0]:
        raise InputError(f"{place}: 'turns' must be a list whose first entry is the prompt's text")
    return Prompt(str(document["question_id"]), str(document["category"]), turns[0])
