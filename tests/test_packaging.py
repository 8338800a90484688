"""Packaging: every package and data file is named, imports are lazy, the version is one."""

import subprocess
import sys
import tomllib
from pathlib import Path

import autodraft

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAPPING = PROJECT["tool"]["setuptools"]["package-dir"]


def folder_of(package: str) -> Path:
    for prefix in sorted(MAPPING, key=len, reverse=True):
        if package == prefix or package.startswith(f"{prefix}."):
            return ROOT / MAPPING[prefix] / package[len(prefix) :].strip(".").replace(".", "/")
    raise AssertionError(f"{package} has no folder")


def test_every_package_is_listed() -> None:
    listed = {folder_of(package).resolve() for package in PROJECT["tool"]["setuptools"]["packages"]}
    there = {path.parent for name in MAPPING.values() for path in (ROOT / name).rglob("__init__.py")}
    assert listed == there


def test_every_data_file_is_covered() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    covered = {path for package, globs in patterns.items() for glob in globs for path in folder_of(package).glob(glob)}
    for name in set(MAPPING.values()):
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc", ".so"):
                assert path in covered, f"{path} would be missing from the wheel"


def test_envs_and_policies_install_under_autodraft() -> None:
    import autodraft.configs
    import autodraft.envs
    import autodraft.policies

    for package in (autodraft.configs, autodraft.envs, autodraft.policies):
        assert package.__name__.startswith("autodraft.")


def test_public_names_are_there_and_lazy() -> None:
    for name in autodraft.__all__:
        assert getattr(autodraft, name) is not None
    code = (
        "import sys, autodraft, autodraft.cli, autodraft.profile, autodraft.configuration\n"
        "print(sorted(sys.modules.keys() & {'torch', 'transformers', 'optuna', 'numpy', 'pandas'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(autodraft, "no_such_thing")
    assert set(autodraft.__all__) <= set(dir(autodraft))


def test_the_version_is_stated_once() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert f"## [{autodraft.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {autodraft.__version__}" in (ROOT / "CITATION.cff").read_text()
