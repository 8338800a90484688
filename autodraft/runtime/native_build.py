"""Compiles the C engine once per machine and loads it. Knows nothing of models.

The library is optional: without a C compiler, or on a machine where the build fails, `load_library`
says why and the PyTorch backend takes over. The compiled file is kept in the user's cache folder under
a name that covers the sources, the flags, the compiler and the processor.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

_SOURCES = Path(__file__).parent / "native"
_FLAGS = (
    *("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno"),
    *("-std=gnu11", "-fPIC", "-shared", "-Wno-psabi", "-pthread"),
)
_COMPILE_TIMEOUT_S = 180


class NativeUnavailableError(Exception):
    """The C engine cannot be used here; the message says why."""


@functools.cache
def load_library() -> ctypes.CDLL:
    """The compiled engine; raises `NativeUnavailableError` with the reason if there is none to be had."""
    names = filter(None, (os.environ.get("CC"), "cc", "gcc", "clang"))
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        raise NativeUnavailableError("no C compiler found (looked for $CC, cc, gcc, clang)")
    name = f"engine-{_key(compiler)}.so"
    for folder in (_cache_folder(), Path(tempfile.gettempdir()) / f"autodraft-{os.getuid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / name).exists():
                compile_library(compiler, folder / name)
            return ctypes.CDLL(str(folder / name))
        except OSError as error:
            reason = str(error)
    raise NativeUnavailableError(f"the compiled engine cannot be stored or loaded: {reason}")


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autodraft"


def _key(compiler: str) -> str:
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for source in sorted(_SOURCES.iterdir()):
        if source.suffix in (".c", ".h"):
            digest.update(source.read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    digest.update(version + platform.machine().encode() + _processor())
    return digest.hexdigest()[:16]


def _processor() -> bytes:
    """What -march=native depends on; a cache folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), "").encode()
    except OSError:
        return platform.processor().encode()


def compile_library(compiler: str, target: Path, extra_flags: Sequence[str] = ()) -> None:
    """Compile next to the target and rename, so that a killed or concurrent build leaves no torn file."""
    sources = [str(path) for path in sorted(_SOURCES.glob("*.c"))]
    handle, temporary = tempfile.mkstemp(suffix=".so", dir=target.parent)
    os.close(handle)
    try:
        command = [compiler, *_FLAGS, *extra_flags, "-o", temporary, *sources, "-lm"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False)
        if result.returncode == 0:
            os.replace(temporary, target)
            return
        first_line = next(iter(result.stderr.strip().splitlines()), "no message")
        raise NativeUnavailableError(f"{compiler} could not compile the engine: {first_line}")
    except subprocess.TimeoutExpired as error:
        raise NativeUnavailableError(f"{compiler} took more than {_COMPILE_TIMEOUT_S} s") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
