"""`Curve`: what the episodes of a training ended in, one JSON line each in a file that grows as they end.

Knows nothing of agents. A training that goes on from a checkpoint cuts the file back to what the checkpoint knows of.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autodraft.profile import write_atomically


@dataclass(frozen=True)
class Episode:
    """One line of the curve."""

    number: int
    role: str
    speedup: float
    cost: float
    policy: str
    max_cost: float | None
    max_extra_bytes: int | None


class Curve:
    """The episodes so far, in memory and in a file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.episodes: list[Episode] = []

    def cut(self, count: int) -> None:
        """Keep the first `count` episodes of an earlier run; with 0 begin anew."""
        lines = self._path.read_text(encoding="utf-8").splitlines()[:count] if count else []
        self.episodes = [Episode(**json.loads(line)) for line in lines]
        write_atomically(self._path, "".join(f"{line}\n" for line in lines))

    def append(self, episode: Episode) -> None:
        self.episodes.append(episode)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(episode.__dict__) + "\n")

    def __iter__(self) -> Iterator[Episode]:
        return iter(self.episodes)

    def __len__(self) -> int:
        return len(self.episodes)
