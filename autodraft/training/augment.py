"""Edit examples: a piece of code, a comment that asks for a change, and the changed copy.

Large models copy what is in front of them; a small one only learns it when it is shown. Knows
text and identifiers, nothing about tokens or files.
"""

from __future__ import annotations

import builtins
import keyword
import random
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

IDENTIFIER = re.compile(r"\b[A-Za-z_][A-Za-z0-9_]{2,}\b")
_RESERVED = frozenset(keyword.kwlist) | frozenset(dir(builtins)) | {"self", "cls"}
_PREFIXES = ("new", "old", "my", "the", "first", "last", "inner", "outer", "local", "base", "raw", "current")
_WORDS = (
    "value", "item", "name", "data", "result", "node", "index", "count", "buffer", "handler", "entry",
    "source", "record", "config", "state", "token", "stream", "message", "context", "options", "payload",
)  # fmt: skip


@dataclass(frozen=True)
class EditExample:
    """`original`, the `instruction` comment line, and `edited`; all end in a newline."""

    original: str
    instruction: str
    edited: str

    @property
    def text(self) -> str:
        return f"{self.original}\n{self.instruction}{self.edited}"


def rename(text: str, old: str, new: str) -> str:
    """Replace the whole word `old` by `new` everywhere."""
    return re.sub(rf"\b{re.escape(old)}\b", lambda _: new, text)


def renameable(piece: str) -> list[str]:
    """Identifiers that occur at least twice and are not the language's own."""
    counts = Counter(IDENTIFIER.findall(piece))
    return sorted(name for name, count in counts.items() if count >= 2 and name not in _RESERVED)


def fresh_name(old: str, taken: str, rng: random.Random) -> str:
    """A name in the style of `old` that does not occur in `taken`."""
    while True:
        word = rng.choice(_WORDS)
        if old[:1].isupper():
            new = rng.choice(_PREFIXES).capitalize() + word.capitalize()
        else:
            new = rng.choice((word, f"{rng.choice(_PREFIXES)}_{word}", f"{old}_{word}"))
        if old.isupper():
            new = new.upper()
        if not re.search(rf"\b{re.escape(new)}\b", taken):
            return new


def make_edit(piece: str, rng: random.Random, verbatim_share: float = 0.2) -> EditExample:
    """Rename one identifier of `piece`, or, at times and where there is none, copy it unchanged."""
    names = renameable(piece)
    if not names or rng.random() < verbatim_share:
        return EditExample(piece, "# The same code again:\n", piece)
    old = rng.choice(names)
    new = fresh_name(old, piece, rng)
    return EditExample(piece, f"# The same code with {old} renamed to {new}:\n", rename(piece, old, new))


def cut_piece(text: str, num_lines: int, rng: random.Random) -> str:
    """About `num_lines` dedented lines of `text`, starting at a definition where there is one."""
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(r"\s*(async def|def|class) ", line)]
    start = rng.choice(starts) if starts and rng.random() < 0.8 else rng.randrange(max(1, len(lines)))
    piece = textwrap.dedent("\n".join(lines[start : start + num_lines])).strip("\n")
    return piece + "\n"


def random_edit(texts: Sequence[str], num_lines: int, rng: random.Random) -> EditExample:
    """An edit example from a random piece of a random text."""
    return make_edit(cut_piece(rng.choice(texts), num_lines, rng), rng)
