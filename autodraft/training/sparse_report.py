"""`SparsifyReport`: what was removed and what it cost, as JSON and as the model card of a target that lost sub-layers.

Plain values; knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autodraft.training.distill import Quality

_CARD = """\
# A different model, made from {model} by removing sub-layers

**This is not {model}.** {removed} of its {total} attention and MLP sub-layers were removed and the matrices of the
others refitted on {steps} steps of text, to the distributions of the original. It has its own outputs and its own
held-out loss; drafts and profiles of the original do not fit it.

| held-out text | loss (nats per token) | KL divergence from the original | same most likely token |
|---|---|---|---|
{rows}

Kept (`A` attention, `M` MLP, `.` removed), block by block of the original: `{pattern}`. A block that lost both
sub-layers is gone from the checkpoint. A sub-layer that was removed alone stands in it with a zero output projection:
any engine loads it and gets the same function, autodraft does not run it.

Text: {source}. Made by autodraft {version}; all figures and settings are in `sparsify.json`.
"""


@dataclass(frozen=True)
class SparsifyReport:
    """What one run did.

    Attributes:
        kept: sub-layers of the target that stay, numbered 2 * block + (0 attention, 1 MLP).
        qualities: held-out figures by stage: "before", "after removal", "after refit". For a draft they are those of
            the target's next token as the draft sees it in a cycle.
        settings: the job, as JSON.
        files: what was written, by what it is.
        prediction: of a draft on this device: speedup, top-1 agreement with the target's own continuations.
    """

    model: str
    num_sub_layers: int
    kept: tuple[int, ...]
    as_draft: bool
    qualities: Mapping[str, Quality]
    source: str
    settings: Mapping[str, Any]
    files: Mapping[str, str]
    prediction: Mapping[str, float] | None = None

    @property
    def pattern(self) -> str:
        """A letter per sub-layer that stays, a point per removed one, a space between blocks."""
        letters = ["AM"[index % 2] if index in self.kept else "." for index in range(self.num_sub_layers)]
        return " ".join("".join(letters[index : index + 2]) for index in range(0, self.num_sub_layers, 2))

    def to_json(self) -> dict[str, Any]:
        qualities = {stage: quality.to_json() for stage, quality in self.qualities.items()}
        return {**asdict(self), "qualities": qualities, "pattern": self.pattern}

    def card(self, version: str) -> str:
        """The model card, Markdown."""
        rows = "\n".join(
            f"| {stage} | {quality.loss:.3f} | {quality.divergence:.3f} | {quality.top1_agreement:.1%} |"
            for stage, quality in self.qualities.items()
        )
        return _CARD.format(
            model=self.model,
            removed=self.num_sub_layers - len(self.kept),
            total=self.num_sub_layers,
            steps=self.settings["steps"],
            rows=rows,
            pattern=self.pattern,
            source=self.source,
            version=version,
        )
