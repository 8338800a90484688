"""The stamps of what is measured: the device, and the target."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from autodraft.profile import DeviceStamp, Fingerprint, TargetStamp
from autodraft.runtime import LoadedModel

_PACKAGES = ("autodraft", "torch", "transformers", "optuna", "triton")


def device_stamp(device: torch.device, backend: str) -> DeviceStamp:
    """Where and with what software figures come from."""
    kind, kernels = ("cuda" if device.type == "cuda" else "cpu"), ("native" if backend == "native" else "torch")
    return DeviceStamp(
        kind=kind,  # type: ignore[arg-type]
        name=torch.cuda.get_device_name(device) if kind == "cuda" else processor_name(),
        cores=num_cores(),
        threads=torch.get_num_threads(),
        backend=kernels,  # type: ignore[arg-type]
        versions=versions(),
    )


def target_stamp(loaded: LoadedModel) -> TargetStamp:
    """The stamp that ties a profile to this model."""
    return TargetStamp(
        name=loaded.name,
        path=loaded.path,
        family=loaded.runtime.spec.family,
        widen=loaded.widen,
        dtype=str(loaded.runtime.dtype).removeprefix("torch."),
        byte_planes=loaded.byte_planes,
        fingerprint=Fingerprint(**loaded.fingerprint),
    )


def versions() -> dict[str, str]:
    """Versions of the software that figures depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """The processor's name, as the operating system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "unknown"
