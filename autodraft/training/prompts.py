"""`python -m autodraft.training.prompts`: the bundled prompt sets, cut from the corpus.

Evaluation prompts come from held-out files only, calibration pieces from training files only; the
same corpus and tokenizer give the same files. Spec-Bench's fields. Knows nothing about the model.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from autodraft.training.corpus import SourceFile, load_corpus
from autodraft.training.pieces import completion_pieces, edit_pieces, prose_pieces, test_pieces
from autodraft.training.tokens import encode

Generator = Callable[[str, random.Random], Iterator[str]]

ASSETS = Path(__file__).resolve().parents[1] / "assets"
PROMPTS_PER_CATEGORY, CALIBRATION_PIECES = 50, 32
PROMPT_TOKENS, CALIBRATION_TOKENS = (60, 400), (256, 400)
GENERATORS: dict[str, Generator] = {
    "completion": completion_pieces,
    "edit": edit_pieces,
    "prose": prose_pieces,
    "tests": test_pieces,
}
NOTICE = """\
The texts in prompts/*.jsonl and calibration.jsonl are excerpts of the source of the Python standard
library, Copyright (c) 2001 Python Software Foundation; All Rights Reserved, under the PSF License
Agreement version 2 (PSF-2.0, https://docs.python.org/3/license.html). The edit prompts change one
name in a second copy of the excerpt's first line and add a comment line.

The model in llama/ was trained on the same library's source; its weights are under Apache-2.0.
"""


def is_test_file(file: SourceFile) -> bool:
    """Whether the file is one of the `test_*.py` files."""
    return file.key.rsplit("/", 1)[-1].startswith("test_")


def candidates(
    files: Sequence[SourceFile],
    generator: Generator,
    tokenizer: PreTrainedTokenizerFast,
    bounds: tuple[int, int],
) -> list[list[str]]:
    """Per file, its fitting pieces in an order that depends on the file's name alone."""
    found = []
    for file in files:
        rng = random.Random(file.key)
        pieces = [piece for piece in generator(file.text, rng) if piece.isascii()]
        fitting = [p for p in pieces if bounds[0] <= len(encode(tokenizer, p)) <= bounds[1]]
        rng.shuffle(fitting)
        found.append(fitting)
    return found


def round_robin(per_file: list[list[str]], count: int, taken: Collection[str] = ()) -> list[str]:
    """`count` distinct pieces that are not `taken`, one from each file in turn, so that no file dominates."""
    chosen: dict[str, None] = {}
    depth = 0
    while len(chosen) < count and any(len(pieces) > depth for pieces in per_file):
        for pieces in per_file:
            if len(pieces) > depth and len(chosen) < count and pieces[depth] not in taken:
                chosen.setdefault(pieces[depth])
        depth += 1
    if len(chosen) < count:
        raise ValueError(f"only {len(chosen)} fitting pieces of {count}")
    return list(chosen)


def calibration_pieces(tokenizer: PreTrainedTokenizerFast) -> Generator:
    """A generator of one piece per file that is as long as calibration wants it."""

    def generate(text: str, rng: random.Random) -> Iterator[str]:
        lines = text.splitlines()
        start = rng.randrange(max(1, len(lines) - 30))
        for stop in range(start + 8, min(start + 60, len(lines))):
            piece = "\n".join(lines[start:stop]).strip("\n").rstrip()
            if len(encode(tokenizer, piece)) >= CALIBRATION_TOKENS[0]:
                yield piece
                return

    return generate


def write_jsonl(path: Path, category: str, texts: Sequence[str], first_id: int) -> None:
    """One JSON object a line, in the fields of Spec-Bench."""
    rows = [
        {"question_id": first_id + offset, "category": category, "turns": [text]} for offset, text in enumerate(texts)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_all(tokenizer: PreTrainedTokenizerFast, assets: Path) -> None:
    """Every prompt file, the calibration file and the NOTICE."""
    corpus = load_corpus()
    tests = [file for file in corpus.held_out if is_test_file(file)]
    others = [file for file in corpus.held_out if not is_test_file(file)]
    taken: set[str] = set()
    for number, (category, generator) in enumerate(GENERATORS.items(), start=1):
        # Library files first: held-out tests fill up what they cannot.
        files = tests if category == "tests" else [*others, *tests]
        texts = round_robin(candidates(files, generator, tokenizer, PROMPT_TOKENS), PROMPTS_PER_CATEGORY, taken)
        taken.update(texts)
        write_jsonl(assets / "prompts" / f"{category}.jsonl", category, texts, 1000 * number)
    shuffled = random.Random(0).sample(corpus.training, min(200, len(corpus.training)))
    per_file = candidates(shuffled, calibration_pieces(tokenizer), tokenizer, CALIBRATION_TOKENS)
    pieces = round_robin(per_file, CALIBRATION_PIECES)
    write_jsonl(assets / "calibration.jsonl", "calibration", pieces, 9000)
    (assets / "NOTICE").write_text(NOTICE, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Write the prompt sets; returns the exit status."""
    parser = argparse.ArgumentParser(prog="prompts", description="write the bundled prompt sets")
    parser.add_argument("--tokenizer", type=Path, default=ASSETS / "llama", help="folder with the tokenizer")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="where prompts/ and calibration.jsonl go")
    args = parser.parse_args(argv)
    write_all(PreTrainedTokenizerFast.from_pretrained(args.tokenizer), args.assets)
    return 0


if __name__ == "__main__":
    sys.exit(main())
