"""The training summary: every figure of the model card, as data.

Measures the finished model and gathers the run's facts. Writes no files and holds no machine's paths.
"""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

import torch
import transformers

from autodraft.training.corpus import SPLIT_RULE, Corpus
from autodraft.training.evaluate import held_out_loss, self_agreement_curve
from autodraft.training.tokens import EncodedCorpus
from autodraft.training.trainer import Trainer
from autodraft.training.windows import eval_windows

LN2 = 0.6931471805599453
FINAL_WINDOWS, FINAL_LENGTH = 32, 1024
CURVE_POINTS = 40


class RecipeResult(TypedDict):
    """One recipe's figures, as they stand in the comparison of the model card."""

    layer_dropout: float
    minutes: float
    tokens: int
    held_out_loss: float
    self_agreement: dict[str, float]


@dataclass(frozen=True)
class TrainingSummary:
    """What the card says. Losses are in nats per token unless the name says otherwise."""

    parameters: int
    steps: int
    tokens_seen: int
    tokens_in_corpus: int
    training_minutes: float
    progress: float
    final_train_loss: float | None
    held_out_loss: float
    held_out_bits_per_byte: float
    held_out_eval_tokens: int
    bytes_per_token: float
    loss_curve: list[list[float]]
    self_agreement: dict[str, float]
    recipe: dict[str, Any]
    recipe_comparison: list[RecipeResult]
    data: dict[str, Any]
    hardware: str
    versions: dict[str, str]

    @property
    def recipe_result(self) -> RecipeResult:
        return RecipeResult(
            layer_dropout=self.recipe["layer_dropout"],
            minutes=self.training_minutes,
            tokens=self.tokens_seen,
            held_out_loss=self.held_out_loss,
            self_agreement=self.self_agreement,
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def thinned(curve: list[list[float]]) -> list[list[float]]:
    """At most `CURVE_POINTS` points of the curve, its first and last among them."""
    if len(curve) <= CURVE_POINTS:
        return curve
    step = (len(curve) - 1) / (CURVE_POINTS - 1)
    return [curve[round(i * step)] for i in range(CURVE_POINTS)]


def hardware_class(device: torch.device) -> str:
    """What kind of machine this is, without its name."""
    if device.type == "cuda":
        return f"one {torch.cuda.get_device_name(device)}"
    return f"{os.cpu_count()}-core CPU"


def summarise(
    trainer: Trainer,
    corpus: Corpus,
    encoded: EncodedCorpus,
    extra_source: bool,
    comparison: list[RecipeResult],
) -> TrainingSummary:
    """Judge the model on held-out text in windows of the full context, and gather the run's facts."""
    counters, device = trainer.counters, trainer.model.device
    length = min(FINAL_LENGTH, max(n for phase in trainer.config.phases for n in phase.weights))
    windows = eval_windows(encoded.held_out, FINAL_WINDOWS * FINAL_LENGTH // length, length).to(device)
    loss = held_out_loss(trainer.eager, windows)
    bytes_per_token = encoded.held_out_bytes / len(encoded.held_out)
    agreement_windows = eval_windows(encoded.held_out, 12, min(512, length)).to(device)[:, :-1]
    curve = self_agreement_curve(trainer.eager, agreement_windows[::3], agreement_windows)
    return TrainingSummary(
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        steps=counters.step,
        tokens_seen=counters.tokens,
        tokens_in_corpus=len(encoded.training),
        training_minutes=round(counters.elapsed_s / 60, 1),
        progress=round(trainer.progress, 3),
        final_train_loss=None if counters.train_loss is None else round(counters.train_loss, 4),
        held_out_loss=round(loss, 4),
        held_out_bits_per_byte=round(loss / LN2 / bytes_per_token, 4),
        held_out_eval_tokens=windows.shape[0] * (windows.shape[1] - 1),
        bytes_per_token=round(bytes_per_token, 3),
        loss_curve=thinned(counters.curve),
        self_agreement=curve,
        recipe=trainer.config.recipe(),
        recipe_comparison=comparison,
        data={
            "source": "Python standard library, .py files, tests included"
            + (", and further permissively licensed Python source" if extra_source else ""),
            "licence": "PSF-2.0" + (" and the licences of the further source" if extra_source else ""),
            "split_rule": SPLIT_RULE,
            "training_files": len(corpus.training),
            "held_out_files": len(corpus.held_out),
            "training_bytes": sum(len(file.text.encode()) for file in corpus.training),
            "held_out_bytes": encoded.held_out_bytes,
        },
        hardware=hardware_class(device),
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    )
