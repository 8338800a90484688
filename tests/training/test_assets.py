"""What the package ships: a model that loads and writes text, and prompt sets in Spec-Bench's fields."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from autodraft.training.prompts import ASSETS, GENERATORS

MODEL = ASSETS / "llama"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("category", GENERATORS)
def test_prompt_sets(category, tokenizer):
    rows = read(ASSETS / "prompts" / f"{category}.jsonl")
    assert len(rows) >= 15
    assert len({row["question_id"] for row in rows}) == len({row["turns"][0] for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == {"question_id", "category", "turns"} and row["category"] == category
        (text,) = row["turns"]
        assert text == text.rstrip() and 60 <= len(tokenizer(text)["input_ids"]) <= 400


def test_calibration_pieces_are_not_prompts(tokenizer):
    rows = read(ASSETS / "calibration.jsonl")
    assert len(rows) == 32 and {row["category"] for row in rows} == {"calibration"}
    assert all(200 <= len(tokenizer(row["turns"][0])["input_ids"]) <= 512 for row in rows)
    prompts = {row["turns"][0] for name in GENERATORS for row in read(ASSETS / "prompts" / f"{name}.jsonl")}
    assert not prompts & {row["turns"][0] for row in rows}


def test_bundled_model_loads_and_is_small(tokenizer):
    assert (MODEL / "model.safetensors").stat().st_size < 25_000_000
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    config = model.config
    assert type(model).__name__ == "LlamaForCausalLM" and config.tie_word_embeddings
    assert (config.num_hidden_layers, config.vocab_size) == (16, len(tokenizer))
    ids = tokenizer("import os\n\n\ndef read(path):\n", return_tensors="pt").input_ids
    new = model.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :]
    assert len(new) and len(set(new.tolist())) > 1


def test_notice_names_the_licence():
    assert "PSF-2.0" in (ASSETS / "NOTICE").read_text()
