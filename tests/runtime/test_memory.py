"""What the system says is left."""

from pathlib import Path

import torch

from autodraft.runtime import memory


def test_what_is_available_is_less_than_there_is(tmp_path: Path, monkeypatch) -> None:
    found = memory.available_bytes(torch.device("cpu"))
    assert found is not None and 2**20 < found < 2**50
    (tmp_path / "meminfo").write_text("MemTotal:       2000 kB\nMemFree:  100 kB\nMemAvailable:    1500 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    assert memory.available_bytes(torch.device("cpu")) == 1500 * 1024
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    assert memory.available_bytes(torch.device("cpu")) is None
