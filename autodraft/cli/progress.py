"""Progress of a search or a training on stderr: a live line on a terminal, else one plain line per stage and every ten
seconds.

Knows nothing of searching or training; it shows the events that they report. The best speedup is always labelled
predicted or measured.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from autodraft.search.loop import SearchProgress
    from autodraft.training.radial.trainer import RouterProgress
    from autodraft.training.sparsifier import TrainingProgress

_PLAIN_INTERVAL_S = 10.0


class StageDisplay:
    """A context manager that shows one stage after another; subclasses say what of their events."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._started = time.monotonic()
        self._shown_stage = ""
        self._shown_at_s = 0.0
        self._live: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._stream.isatty():
            self._live = _live_line(self._stream)
            self._task = self._live.add_task("loading", total=None, text="", left="")
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, stage: str, done: int, total: int, text: str, seconds_left: float | None) -> None:
        """Show where things are; `total` is 0 where it is not known."""
        elapsed_s = time.monotonic() - self._started
        left = "" if seconds_left is None else f", about {_clock(seconds_left)} left"
        if self._live is not None and self._task is not None:
            self._live.update(
                self._task, description=stage, completed=done, total=total or None, text=text, left=left
            )  # fmt: skip
        elif stage != self._shown_stage or elapsed_s - self._shown_at_s >= _PLAIN_INTERVAL_S:
            self._stream.write(f"[{_clock(elapsed_s)}] {stage}: {text}{left}\n")
            self._stream.flush()
            self._shown_stage, self._shown_at_s = stage, elapsed_s


class SearchDisplay(StageDisplay):
    """A display whose `update` is the callback that `run_search` is given."""

    def update(self, event: SearchProgress) -> None:
        """Show where the search is."""
        self.show(event.stage, event.trial, event.total, describe(event), event.seconds_left)


class TrainingDisplay(StageDisplay):
    """A display whose `update` is the callback that a training is given."""

    def update(self, event: TrainingProgress) -> None:
        """Show where the training is."""
        text = f"step {event.step} of {event.total}, loss {event.loss:.3f}, {event.num_open} sub-layers open"
        self.show(event.stage, event.step, event.total, text, event.seconds_left)


class RouterDisplay(StageDisplay):
    """A display whose `update` is the callback that a router's training is given."""

    def search(self, cost: float) -> None:
        """Show how far the search for the first route has come."""
        self.show("searching", 0, 0, f"best route for all tokens, down to {cost:.2f} of the blocks", None)

    def profile(self) -> None:
        """Show that the training is over and the draft is timed."""
        self.show("profile", 0, 0, "agreement and times of the draft", None)

    def update(self, event: RouterProgress) -> None:
        """Show where the training is; figures are those of the last step's sampled routes."""
        text = f"step {event.step} of {event.total}, agreement {event.agreement:.3f} at cost {event.cost:.2f}"
        self.show("training", event.step, event.total, text, event.seconds_left)


def describe(event: SearchProgress) -> str:
    """`12 of 60, best so far 1.43x (measured)`."""
    count = f"{event.trial} of at most {event.total}" if event.total else "begun"
    return count if event.best is None else f"{count}, best so far {event.best:.2f}x ({event.best_fidelity})"


def _live_line(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[text]}{task.fields[left]}"),
        TimeElapsedColumn(),
        console=Console(file=stream),
    )


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
