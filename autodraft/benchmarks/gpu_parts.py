"""Parts of a benchmark in processes of their own, each under a time limit: what came before a crash or the limit stays.

Knows nothing of what is measured. A fault in a kernel leaves a CUDA context unusable, so a part that fails must not
take the others with it. A part prints one JSON document per line; what it says on stderr is passed on.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from autodraft.report.files import report_file

DONE = "done"
NOT_BEGUN = "not begun: the time for all parts was over"

Emit = Callable[[Mapping[str, Any]], None]
"""Takes one row of a part."""


@dataclass(frozen=True)
class Part:
    """What runs a part, and the seconds that it may take."""

    command: Sequence[str]
    limit_s: float


def print_row(row: Mapping[str, Any]) -> None:
    """`Emit` in the process of a part."""
    print(json.dumps(row, allow_nan=False), flush=True)


def run_part(command: Sequence[str], limit_s: float, on_row: Callable[[Any], None]) -> str:
    """Run a part, giving each document to `on_row` as it comes; `DONE`, or why there are not more of them."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    errors: list[str] = []
    reader = threading.Thread(target=_pass_on, args=(process.stderr, errors), daemon=True)
    reader.start()
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(limit_s, stop)
    timer.start()
    try:
        for line in process.stdout:
            if line.startswith("{") and line.endswith("}\n"):
                on_row(json.loads(line))
        code = process.wait()
    finally:
        timer.cancel()
        process.kill()
    reader.join()
    if late.is_set():
        return f"stopped after {limit_s:.4g} s"
    reason = next((line.strip() for line in reversed(errors) if line.strip()), "no message")
    return DONE if code == 0 else f"failed ({code}): {reason}"


def _pass_on(stream: TextIO, lines: list[str]) -> None:
    for line in stream:
        lines.append(line)
        sys.stderr.write(line)


def run_parts(
    wanted: Mapping[str, Part], parts: dict[str, Any], save: Callable[[], None], total_s: float = math.inf
) -> None:
    """Run every part that `parts` (name -> status and rows) does not have as done; `save` after each row.

    None of them goes on for longer than `total_s` seconds after the first began.
    """
    deadline = time.monotonic() + total_s
    for number, (name, part) in enumerate(wanted.items(), start=1):
        if parts.get(name, {}).get("status") == DONE:
            continue
        left = deadline - time.monotonic()
        if left <= 0:
            parts.setdefault(name, {"status": NOT_BEGUN, "rows": []})
            continue
        print(f"part {number} of {len(wanted)}: {name}", file=sys.stderr)
        rows: list[Any] = []
        parts[name] = {"status": "interrupted", "rows": rows}

        def keep(row: Any, rows: list[Any] = rows) -> None:
            rows.append(row)
            save()

        parts[name]["status"] = run_part(part.command, min(part.limit_s, left), keep)
        print(f"part {number} of {len(wanted)}: {name}: {parts[name]['status']}", file=sys.stderr)
        save()


def earlier_parts(path: Path, device: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier run on the same device, with the same software, has left in the report."""
    file = report_file(path, ".json")
    if not file.exists():
        return {}
    earlier = json.loads(file.read_text(encoding="utf-8"))
    parts: dict[str, Any] = earlier["parts"] if earlier["device"] == device else {}
    return parts
