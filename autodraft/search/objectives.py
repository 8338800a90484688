"""Objectives of a search: the figures that are optimised, and which candidate counts as the best.

Knows nothing of Optuna's studies. The exported profile is always the fastest candidate; with "memory" as a second
objective the search also keeps the front of what less memory would cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from autodraft.errors import InputError
from autodraft.evaluator import Evaluation

Direction = Literal["maximize", "minimize"]
_DIRECTIONS: dict[str, Direction] = {"speedup": "maximize", "memory": "minimize"}
Candidate = TypeVar("Candidate")


@dataclass(frozen=True)
class Objectives:
    """`speedup` alone, or `speedup` and then `memory` (the bytes that drafts add)."""

    names: tuple[str, ...] = ("speedup",)

    @classmethod
    def parse(cls, text: str | Sequence[str]) -> Objectives:
        names = tuple(part.strip() for part in (text.split(",") if isinstance(text, str) else text))
        if names not in (("speedup",), ("speedup", "memory")):
            raise InputError(f'objective {",".join(names)!r} is unknown; choose "speedup" or "speedup,memory"')
        return cls(names)

    @property
    def directions(self) -> list[Direction]:
        return [_DIRECTIONS[name] for name in self.names]

    def values(self, evaluation: Evaluation) -> list[float]:
        figures = {"speedup": evaluation.speedup, "memory": float(evaluation.extra_bytes)}
        return [figures[name] for name in self.names]

    def front(self, candidates: Sequence[tuple[Candidate, Evaluation]]) -> list[tuple[Candidate, Evaluation]]:
        """Candidates that no other one beats in every objective, fastest first."""
        ordered = sorted(candidates, key=lambda pair: (-pair[1].speedup, pair[1].extra_bytes))
        if len(self.names) == 1:
            return ordered[:1]
        kept: list[tuple[Candidate, Evaluation]] = []
        for candidate, evaluation in ordered:
            if not kept or evaluation.extra_bytes < kept[-1][1].extra_bytes:
                kept.append((candidate, evaluation))
        return kept
