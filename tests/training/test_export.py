"""The exported folder: standard Hugging Face files, a card made from the summary, no machine paths."""

import json
import tempfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from autodraft.training.export import export
from autodraft.training.summary import summarise
from autodraft.training.trainer import Trainer

TEXTS = (
    "def f(x):\n    return x + 1\n",
    "  spaces\tand tabs \n\n",
    "näive ☃ text",
    "<s> is plain? no matter",
)


@pytest.fixture
def exported(tiny_config, tiny_data, tiny_corpus, tmp_path):
    texts = [file.text for file in tiny_corpus.training]
    trainer = Trainer(tiny_config, tiny_data, texts, tmp_path / "work", torch.device("cpu"))
    trainer.run(max_steps=4)
    summary = summarise(trainer, tiny_corpus, tiny_data, extra_source=False, comparison=[])
    summary.recipe_comparison.append(summary.recipe_result)
    for _ in range(2):  # the second export replaces the first
        export(trainer.model, tiny_data.tokenizer, summary, tmp_path / "llama")
    return trainer, tmp_path / "llama"


def test_folder_loads_in_transformers(exported):
    trainer, folder = exported
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.bfloat16()), name
    assert model.generate(torch.tensor([[0, 5, 6]]), max_new_tokens=3, min_new_tokens=3).shape == (1, 6)


def test_tokenizer_round_trips(exported):
    tokenizer = AutoTokenizer.from_pretrained(exported[1])
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


def test_card_is_made_and_names_no_paths(exported):
    _, folder = exported
    card, summary = (
        (folder / "README.md").read_text(),
        json.loads((folder / "training_summary.json").read_text()),
    )
    assert f"{summary['held_out_bits_per_byte']} bits per byte" in card
    assert "Recipes compared" in card and "Apache-2.0" in card and "PSF-2.0" in card
    for text in (card, json.dumps(summary)):
        assert str(Path.home()) not in text and tempfile.gettempdir() not in text
    assert not list(folder.parent.glob("llama.*"))
