"""The engine as it is compiled for lesser processors than this one, as far as this one runs it."""

import ctypes
import functools
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from autodraft.runtime import TransformerRuntime, build_runtime, native_backend
from autodraft.runtime.native_build import compile_library, load_library

# Name -> flags of the compiler, and what the processor has to have.
_SETS = {
    "sse": (["-march=x86-64"], set()),
    "avx2": (["-march=x86-64-v3"], {"avx2", "fma", "f16c", "bmi2", "movbe"}),
    "avx2-vnni": (["-march=x86-64-v3", "-mavxvnni"], {"avx2", "fma", "f16c", "bmi2", "movbe", "avx_vnni"}),
    "avx512": (["-march=x86-64-v4"], {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
    "avx512-bf16": (["-march=x86-64-v4", "-mavx512bf16"], {"avx512bw", "avx512vl", "avx512_bf16"}),
}
INSTRUCTION_SETS = ("native", *_SETS)


@functools.cache
def engine(name: str) -> ctypes.CDLL:
    """The library for one of `INSTRUCTION_SETS`; the test is skipped where it does not run."""
    if name == "native":
        return load_library()
    flags, needed = _SETS[name]
    if platform.machine() != "x86_64" or not needed <= _features():
        pytest.skip(f"this processor does not run {name}")
    compiler = shutil.which("cc") or shutil.which("gcc")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.so"
        compile_library(compiler, path, flags)
        return ctypes.CDLL(str(path))  # stays mapped without its file


def build_on(name: str, model: Any, **options: Any) -> TransformerRuntime:
    """A runtime of a model on one of `INSTRUCTION_SETS`."""
    library = engine(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_backend, "load_library", lambda: library)
        return build_runtime(model, backend="native", **options)


@functools.cache
def _features() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return set(next((line for line in lines if line.startswith("flags")), "").split())
