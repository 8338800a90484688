"""The split: decided by the relative path alone, stable, disjoint."""

from autodraft.training.corpus import HELD_OUT_PER_MILLE, SourceFile, find_source, is_held_out, split


def test_split_is_pinned():
    # Pinned: a change of the rule would put held-out files of the shipped model into training.
    keys = [f"package/module_{n}.py" for n in range(200)]
    held_out = [key for key in keys if is_held_out(key)]
    assert held_out == ["package/module_82.py", "package/module_120.py", "package/module_132.py"]


def test_share_is_about_what_it_says():
    share = sum(is_held_out(f"a/{n}.py") for n in range(20_000)) / 20_000
    assert abs(share - HELD_OUT_PER_MILLE / 1000) < 0.006


def test_sides_are_disjoint_and_complete():
    files = [SourceFile(f"m{n}.py", f"x = {n}\n") for n in range(500)]
    corpus = split(reversed(files))
    training, held_out = ({file.key for file in side} for side in (corpus.training, corpus.held_out))
    assert held_out and not training & held_out
    assert training | held_out == {file.key for file in files}


def test_copies_of_held_out_files_are_not_trained_on():
    held_out_key = next(f"m{n}.py" for n in range(500) if is_held_out(f"m{n}.py"))
    training_key = next(f"m{n}.py" for n in range(500) if not is_held_out(f"m{n}.py"))
    corpus = split([SourceFile(held_out_key, "same"), SourceFile(training_key, "same")])
    assert not corpus.training and len(corpus.held_out) == 1


def test_keys_are_relative_and_installed_packages_left_out(tmp_path):
    for name in ("a/b.py", "site-packages/c.py", "encodings/d.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n" * 20)
    assert [file.key for file in find_source(tmp_path)] == ["a/b.py"]
