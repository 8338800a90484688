"""Prompt files: good ones are read, bad ones are refused with file and line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from autodraft.errors import InputError
from autodraft.measure.prompts import (
    bundled_prompts,
    calibration_prompts,
    choose_prompts,
    encode_prompts,
    evaluation_prompts,
    read_prompts,
    search_prompts,
)


def tokenizer(text: str) -> dict[str, list[int]]:
    return {"input_ids": [ord(letter) for letter in text if letter != " "]}


def test_bundled_prompts_cover_all_tasks_and_are_not_the_calibration_texts() -> None:
    prompts = bundled_prompts()
    counts = Counter(prompt.category for prompt in prompts)
    assert {"completion", "edit", "prose", "tests"} <= set(counts) and min(counts.values()) >= 15
    assert not {prompt.text for prompt in prompts} & {prompt.text for prompt in calibration_prompts()}


def test_choice_is_even_over_categories_and_reproducible() -> None:
    prompts = bundled_prompts()
    chosen = choose_prompts(prompts, 12, seed=3)
    assert set(Counter(prompt.category for prompt in chosen).values()) == {3}
    assert chosen == choose_prompts(prompts, 12, seed=3) != choose_prompts(prompts, 12, seed=4)
    assert {prompt.category for prompt in choose_prompts(prompts, tasks=("edit",))} == {"edit"}
    with pytest.raises(InputError, match="no prompts of the category poetry"):
        choose_prompts(prompts, tasks=("poetry",))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "no prompts"),
        ("{", "line 1: not JSON"),
        ("[]", "line 1: a prompt is an object"),
        ('{"question_id": 1, "category": "a"}', "'turns' is missing"),
        ('{"question_id": 1, "category": "a", "turns": []}', "'turns' must be a list"),
        ('{"question_id": 1, "category": "a", "turns": [""]}', "'turns' must be a list"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=complaint):
        read_prompts(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such prompt file"):
        read_prompts(tmp_path / "nothing.jsonl")


def test_prompts_are_cut_on_the_left(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"question_id": 1, "category": "a", "turns": ["abc"]}\n')
    (prompt,) = encode_prompts(read_prompts(path), tokenizer, 2)
    assert prompt.tokens == (ord("b"), ord("c"))
    path.write_text('{"question_id": 1, "category": "a", "turns": [" "]}\n')
    with pytest.raises(InputError, match="no tokens"):
        encode_prompts(read_prompts(path), tokenizer, 2)


def test_no_search_sees_the_prompts_that_its_result_is_judged_on() -> None:
    chosen_by, judged_on = search_prompts(), evaluation_prompts()
    assert not {prompt.text for prompt in chosen_by} & {prompt.text for prompt in judged_on}
    assert {prompt.category for prompt in chosen_by} == {prompt.category for prompt in judged_on}
    assert len(chosen_by) == len(judged_on) == 100
