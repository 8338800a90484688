"""Export: a folder that AutoModelForCausalLM and AutoTokenizer load, with a generated model card.

Knows Hugging Face's file formats, not how the model was trained; all figures come from the summary.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from autodraft.training.card import model_card
from autodraft.training.summary import TrainingSummary


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, summary: TrainingSummary, folder: Path) -> None:
    """Write the folder anew beside its place, then put it there: readers see the old model or the new."""
    staging = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy = copy.to(torch.bfloat16)  # type: ignore[arg-type]
    copy.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id, eos_token_id=model.config.eos_token_id, do_sample=False
    )
    copy.save_pretrained(staging)
    tokenizer.save_pretrained(staging)
    facts = json.dumps(summary.as_dict(), indent=2)
    (staging / "training_summary.json").write_text(facts + "\n")
    (staging / "README.md").write_text(model_card(summary))
    for file in staging.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner alone, and a wheel keeps that
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
