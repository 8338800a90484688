"""Edit examples: the copy differs from the original in the rename and in nothing else."""

import random
import re

import pytest

from autodraft.training.augment import cut_piece, make_edit, rename, renameable

PIECE = "def area(width, height):\n    size = width * height\n    return size  # width_unit is kept\n"
TEXT = "import os\n\n\nclass Box:\n    def area(self):\n        side = self.side\n        return side * side\n" * 3


@pytest.mark.parametrize("seed", range(30))
def test_edited_copy_is_the_original_but_for_the_rename(seed):
    example = make_edit(PIECE, random.Random(seed), verbatim_share=0.0)
    match = re.fullmatch(r"# The same code with (\w+) renamed to (\w+):\n", example.instruction)
    assert match
    old, new = match.groups()
    assert old in ("width", "height", "size") and not re.search(rf"\b{new}\b", PIECE)
    assert example.original == PIECE and example.edited != PIECE
    assert rename(example.edited, new, old) == PIECE


def test_only_whole_words_are_renamed():
    assert rename("width width_unit", "width", "w") == "w width_unit"
    assert renameable(PIECE) == ["height", "size", "width"]


def test_without_a_name_the_copy_is_verbatim():
    example = make_edit("x = 1\n", random.Random(0))
    assert example.edited == example.original and "again" in example.instruction


def test_pieces_are_dedented_whole_lines():
    for seed in range(20):
        piece = cut_piece(TEXT, 4, random.Random(seed))
        assert piece.endswith("\n") and not piece.startswith("\n")
        assert all(line.strip() in TEXT for line in piece.splitlines())
