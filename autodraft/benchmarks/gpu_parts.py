"""Parts of a benchmark in processes of their own, each under a time limit: what came before a crash or the limit stays.

Knows nothing of what is measured. A fault in a kernel leaves a CUDA context unusable, so a part that fails must not
take the others with it. A part prints one JSON document per line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

DONE = "done"


def run_part(command: Sequence[str], limit_s: float, on_row: Callable[[Any], None]) -> str:
    """Run a part, giving each document to `on_row` as it comes; `DONE`, or why there are not more of them."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    errors: list[str] = []
    reader = threading.Thread(target=lambda stream: errors.extend(stream), args=(process.stderr,), daemon=True)
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
        return f"stopped after {limit_s:g} s"
    reason = next((line.strip() for line in reversed(errors) if line.strip()), "no message")
    return DONE if code == 0 else f"failed ({code}): {reason}"


def run_parts(
    commands: Mapping[str, Sequence[str]], parts: dict[str, Any], limit_s: float, save: Callable[[], None]
) -> None:
    """Run every part that `parts` (name -> status and rows) does not have as done; `save` after each row."""
    for number, (name, command) in enumerate(commands.items(), start=1):
        if parts.get(name, {}).get("status") == DONE:
            continue
        print(f"part {number} of {len(commands)}: {name}", file=sys.stderr)
        rows: list[Any] = []
        parts[name] = {"status": "interrupted", "rows": rows}

        def keep(row: Any, rows: list[Any] = rows) -> None:
            rows.append(row)
            save()

        parts[name]["status"] = run_part(command, limit_s, keep)
        save()
