"""The command line: Typer commands, each a few lines over the library.

Knows nothing of how anything is done. Heavy imports are local to the commands that need them, so that
`autodraft --help` answers at once. Results go to stdout, progress and remarks to stderr.
"""

from __future__ import annotations

from autodraft.cli.entry import app, main

__all__ = ["app", "main"]
