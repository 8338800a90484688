"""What the user sees when something goes wrong: one line on stderr and an exit code, never a traceback.

Knows no command. 2: the input is wrong or does not fit; 130: interrupted. Whatever is not listed here is a
bug of ours and keeps its traceback.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from autodraft.errors import AutodraftError

USAGE_ERROR = 2
INTERRUPTED = 130


@contextmanager
def reported_failures() -> Iterator[None]:
    """Decorates a command: errors that a user can act on become one line and an exit code."""
    try:
        yield
    except AutodraftError as error:
        fail(str(error))
    except KeyboardInterrupt as error:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from error
    except BrokenPipeError as error:  # the reader of our output has gone: `autodraft ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from error
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        fail(f"{place}{error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        fail("out of memory; use a smaller model, --widen or --dtype, or free memory on the device")


class _LineHandler(logging.Handler):
    """Warnings of the library as one line each on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(f"{record.levelname.lower()}: {record.getMessage()}", err=True)


_HANDLER = _LineHandler(logging.WARNING)


def report_warnings() -> None:
    """Send what the library logs to stderr; calling it again changes nothing."""
    logging.getLogger("autodraft").addHandler(_HANDLER)


def fail(message: str) -> None:
    """End the command with one line on stderr."""
    line = " ".join(message.split())
    typer.echo(f"error: {line}", err=True)
    raise typer.Exit(USAGE_ERROR)


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    known = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or any(phrase in text for phrase in known)
