"""Cuts prompt-sized pieces out of Python files: unfinished functions, docstrings, tests, edits.

Every generator yields texts that end at the end of a line, without its newline. Knows Python's
grammar (through `ast`) and nothing about tokens, files or prompt sets.
"""

from __future__ import annotations

import ast
import random
import re
import textwrap
from collections.abc import Iterator

from autodraft.training.augment import make_edit, renameable

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
MAX_PIECE_LINES = 60


def _parse(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def _definitions(tree: ast.AST) -> list[Definition]:
    return [node for node in ast.walk(tree) if isinstance(node, Definition)]


def _cut(lines: list[str], first: int, last: int) -> str:
    """Lines `first` to `last` (1-based, inclusive), dedented, without blank or half-open ends."""
    return textwrap.dedent("\n".join(lines[first - 1 : last])).strip("\n").rstrip()


def _middle(first: int, last: int, rng: random.Random) -> int:
    """A line between a third and two thirds of the way from `first` to `last`."""
    return first + max(1, round((last - first) * rng.uniform(0.34, 0.67)))


def completion_pieces(text: str, rng: random.Random) -> Iterator[str]:
    """The first part of a function or class."""
    tree, lines = _parse(text), text.splitlines()
    for node in _definitions(tree) if tree else []:
        last = min(node.end_lineno or node.lineno, node.lineno + MAX_PIECE_LINES)
        if last - node.lineno >= 8:
            yield _cut(lines, node.lineno, _middle(node.lineno, last, rng))


def test_pieces(text: str, rng: random.Random) -> Iterator[str]:
    """The member before a test method, if it is short, and the method's first part."""
    tree, lines = _parse(text), text.splitlines()
    for owner in ast.walk(tree) if tree else []:
        if not isinstance(owner, ast.ClassDef):
            continue
        for before, node in zip(owner.body, owner.body[1:], strict=False):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test"):
                continue
            last = node.end_lineno or node.lineno
            if last - node.lineno < 4:
                continue
            start = before.lineno if node.lineno - before.lineno <= 25 else node.lineno
            yield _cut(lines, start, _middle(node.lineno, last, rng))


def prose_pieces(text: str, rng: random.Random) -> Iterator[str]:
    """The first part of a long docstring with the line that it belongs to, or of a comment block."""
    tree, lines = _parse(text), text.splitlines()
    for node in [tree, *_definitions(tree)] if tree else []:
        body = node.body[0] if node.body else None
        if not (isinstance(body, ast.Expr) and isinstance(body.value, ast.Constant)):
            continue
        words = body.value.value
        if not isinstance(words, str) or ">>>" in words or len(words.split()) < 30 or not body.end_lineno:
            continue
        first = 1 if isinstance(node, ast.Module) else node.lineno
        last = min(body.end_lineno, body.lineno + MAX_PIECE_LINES)
        if last - body.lineno >= 3:
            yield _cut(lines, first, _middle(body.lineno, last, rng))
    for first, last in comment_blocks(lines):
        yield _cut(lines, max(1, first - 8), _middle(first, last, rng))


def comment_blocks(lines: list[str]) -> Iterator[tuple[int, int]]:
    """First and last line (1-based) of every run of at least six comment lines that read like text."""
    first = None
    for number, line in enumerate([*lines, ""], start=1):
        is_text = bool(re.match(r"\s*# ?[A-Za-z(*\-]", line)) and "Licensed" not in line
        if is_text and first is None:
            first = number
        elif not is_text and first is not None:
            if number - first >= 6:
                yield first, number - 1
            first = None


def edit_pieces(text: str, rng: random.Random) -> Iterator[str]:
    """A whole function, the request for an edit, and the first line of the edited copy."""
    tree, lines = _parse(text), text.splitlines()
    for node in _definitions(tree) if tree else []:
        last = node.end_lineno or node.lineno
        if not 5 <= last - node.lineno <= 30:
            continue
        piece = _cut(lines, node.lineno, last) + "\n"
        if renameable(piece):
            example = make_edit(piece, rng, verbatim_share=0.1)
            yield f"{example.original}\n{example.instruction}{example.edited.splitlines()[0]}"
