"""Progress of a search or a training on stderr: a live line on a terminal, else one plain line per stage and every ten
seconds.

Knows nothing of searching or training; it shows the events that are reported. The best speedup is always labelled
predicted or measured.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from autodraft.search.loop import SearchProgress
    from autodraft.training.radial.trainer import RouterProgress

_PLAIN_INTERVAL_S = 10.0


class SearchDisplay:
    """A context manager whose `update` is the callback that `run_search` is given."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._started = time.monotonic()
        self._shown_stage = ""
        self._shown_at_s = 0.0
        self._live: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> SearchDisplay:
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

    def update(self, event: SearchProgress) -> None:
        """Show where the search is."""
        elapsed_s = time.monotonic() - self._started
        if self._live is not None and self._task is not None:
            self._live.update(
                self._task,
                description=event.stage,
                completed=event.trial,
                total=event.total or None,
                text=describe(event),
                left=time_left(event),
            )
        elif event.stage != self._shown_stage or elapsed_s - self._shown_at_s >= _PLAIN_INTERVAL_S:
            self._stream.write(f"[{_clock(elapsed_s)}] {event.stage}: {describe(event)}{time_left(event)}\n")
            self._stream.flush()
            self._shown_stage, self._shown_at_s = event.stage, elapsed_s


class TrainingDisplay:
    """A context manager whose `update` is the callback of a router's training."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._shown_at_s = -_PLAIN_INTERVAL_S
        self._live: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> TrainingDisplay:
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

    def search(self, cost: float) -> None:
        """Show how far the search for the first route has come."""
        text = f"best route for all tokens, down to {cost:.2f} of the blocks"
        if self._live is not None and self._task is not None:
            self._live.update(self._task, description="searching", text=text)
        elif time.monotonic() - self._shown_at_s >= _PLAIN_INTERVAL_S:
            self._stream.write(f"{text}\n")
            self._stream.flush()
            self._shown_at_s = time.monotonic()

    def update(self, event: RouterProgress) -> None:
        """Show where the training is; figures are those of the last step's sampled routes."""
        text = f"step {event.step} of {event.total}, agreement {event.agreement:.3f} at cost {event.cost:.2f}"
        left, now_s = f", about {_clock(event.seconds_left)} left", time.monotonic()
        if self._live is not None and self._task is not None:
            self._live.update(
                self._task, description="training", completed=event.step, total=event.total, text=text, left=left
            )
        elif now_s - self._shown_at_s >= _PLAIN_INTERVAL_S or event.step == event.total:
            self._stream.write(f"{text}{left}\n")
            self._stream.flush()
            self._shown_at_s = now_s


def describe(event: SearchProgress) -> str:
    """`12 of 60, best so far 1.43x (measured)`."""
    count = f"{event.trial} of at most {event.total}" if event.total else "begun"
    return count if event.best is None else f"{count}, best so far {event.best:.2f}x ({event.best_fidelity})"


def time_left(event: SearchProgress) -> str:
    """`, about 2:10 left`, or nothing where that is unknown."""
    return "" if event.seconds_left is None else f", about {_clock(event.seconds_left)} left"


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
