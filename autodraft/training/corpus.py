"""The corpus: Python source found on this machine, split by a hash of each file's relative path.

Knows which files exist and which side of the split they are on. Knows nothing about tokens.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_PER_MILLE = 40
SPLIT_RULE = (
    "sha256 of the file's path relative to the source root (POSIX separators); "
    f"first 8 bytes, big-endian, modulo 1000 below {HELD_OUT_PER_MILLE}: held out"
)
# Not source that people write: installed packages, byte caches, generated tables.
EXCLUDED_PARTS = frozenset({"site-packages", "dist-packages", "__pycache__", "encodings", "pydoc_data"})
MAX_FILE_BYTES = 400_000


@dataclass(frozen=True)
class SourceFile:
    """One file: `key` is the path relative to its root, `text` its decoded content."""

    key: str
    text: str

    @property
    def held_out(self) -> bool:
        return is_held_out(self.key)


@dataclass(frozen=True)
class Corpus:
    """Both sides of the split, each in the order of the keys."""

    training: tuple[SourceFile, ...]
    held_out: tuple[SourceFile, ...]

    @property
    def fingerprint(self) -> str:
        """Changes whenever any file or its content does."""
        digest = hashlib.sha256()
        for file in (*self.training, *self.held_out):
            digest.update(f"{file.key}\0{file.text}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]


def is_held_out(key: str) -> bool:
    """Decide a file's side from its relative path alone, so that it never changes side."""
    value = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return value % 1000 < HELD_OUT_PER_MILLE


def stdlib_root() -> Path:
    """Where this Python keeps its standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def find_source(root: Path, prefix: str = "") -> list[SourceFile]:
    """Read every eligible `.py` file under `root`; files that are not UTF-8 are left out."""
    files = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if EXCLUDED_PARTS.intersection(relative.parts) or not path.is_file():
            continue
        if not 64 <= path.stat().st_size <= MAX_FILE_BYTES:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        files.append(SourceFile(prefix + relative.as_posix(), text.replace("\r\n", "\n")))
    return files


def split(files: Iterable[SourceFile]) -> Corpus:
    """Split by path hash; of files with the same text, only one on the training side is kept."""
    ordered = sorted(files, key=lambda file: file.key)
    held_out = [file for file in ordered if file.held_out]
    seen = {file.text for file in held_out}
    training = []
    for file in ordered:
        if not file.held_out and file.text not in seen:
            seen.add(file.text)
            training.append(file)
    return Corpus(tuple(training), tuple(held_out))


def load_corpus(extra: Sequence[Path] = ()) -> Corpus:
    """The standard library's source, and that of `extra` folders of permissively licensed code."""
    files = find_source(stdlib_root())
    for root in extra:
        if not root.is_dir():
            raise FileNotFoundError(f"--extra-source {root}: not a folder")
        files.extend(find_source(root, prefix=f"{root.name}/"))
    if not files:
        raise FileNotFoundError("no Python source found: does this Python ship its standard library as .py?")
    return split(files)
