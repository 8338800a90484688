"""Configuration: every shipped file loads, the command line wins over YAML, unknown keys are refused."""

from pathlib import Path

import pytest
import yaml

from autodraft.configuration import (
    ModelConfig,
    SearchJob,
    load_search_job,
    model_configs,
    parse_assignments,
    resolve_model,
    search_config_names,
)
from autodraft.errors import AutodraftError, InputError, ModelNotFoundError

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("path", sorted((CONFIGS / "models").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_model_file_loads(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    assert model_configs()[path.stem] == ModelConfig(**document)
    assert all(document[name] != field.default for name, field in ModelConfig.model_fields.items() if name in document)
    assert resolve_model(path.stem).name == path.stem


@pytest.mark.parametrize("path", sorted((CONFIGS / "search").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_search_file_loads_and_holds_only_differences(path: Path) -> None:
    document = yaml.safe_load(path.read_text()) or {}
    assert path.stem in search_config_names()
    assert load_search_job(path.stem) == load_search_job(path) == SearchJob(**document)
    assert all(document[name] != SearchJob.model_fields[name].default for name in document)


def test_every_setting_is_documented() -> None:
    for model in (SearchJob, ModelConfig):
        assert all(field.description for field in model.model_fields.values())


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text("seed: 3\nnum_trials: 7\n")
    job = load_search_job(config, {"num_trials": 9})
    assert (job.num_trials, job.seed, job.widen) == (9, 3, 1)


def test_a_resolved_job_reads_back(tmp_path: Path) -> None:
    job = load_search_job("quick", {"objectives": ["speedup", "memory"], "output": tmp_path, "bits": [16, 8]})
    job.save(tmp_path)
    assert load_search_job(tmp_path / "config.yaml") == job


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeed": 1}, "unknown setting 'seeed'; did you mean seed?"),
        ({"num_trials": 0}, "num_trials: "),
        ({"num_trials": "many"}, "num_trials: "),
        ({"searcher": "grid"}, "searcher: Input should be 'staged'"),
        ({"device": "tpu"}, "device: "),
        ({"bits": [3]}, "bits[0]: "),
        ({"bits": []}, "bits: "),
        ({"objectives": ["memory"]}, "objectives are 'speedup' alone"),
        ({"budget_minutes": 0}, "budget_minutes: "),
    ],
)
def test_a_wrong_setting_is_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_search_job(None, settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["- a list", "seed: [", "1: 2", "seed: 1\nbogus: 2"])
def test_a_wrong_file_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        load_search_job(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_configuration_names_the_shipped_ones() -> None:
    with pytest.raises(InputError, match=r"no such file.*default, quick, thorough"):
        load_search_job("quickest.yaml")


def test_assignments_are_read_as_yaml() -> None:
    assert parse_assignments(["seed=3", "bits=[16, 8]", "budget_minutes=null", "prompts=a=b"]) == {
        "seed": 3,
        "bits": [16, 8],
        "budget_minutes": None,
        "prompts": "a=b",
    }
    for wrong in ("seed", "=3", "seed=[1"):
        with pytest.raises(InputError, match="--set"):
            parse_assignments([wrong])


@pytest.mark.parametrize(
    ("model", "widen", "folder"),
    [
        ("llama", 1, "llama"),
        ("llama", 4, "llama-x4"),
        ("Qwen/Qwen3-8B", 1, "Qwen--Qwen3-8B"),
        ("./some/where/mine/", 1, "mine"),
    ],
)
def test_the_output_folder_is_named_by_the_model(model: str, widen: int, folder: str) -> None:
    assert SearchJob(model=model, widen=widen).output_folder == Path("autodraft-runs") / folder


def test_a_name_is_a_configuration_then_a_folder_then_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama").mkdir()
    (tmp_path / "mine").mkdir()
    bundled = resolve_model("llama")
    assert bundled.is_local and bundled.path_or_id.endswith("assets/llama")
    assert resolve_model("llama-x4").path_or_id == bundled.path_or_id
    assert (resolve_model("llama-x4").widen, resolve_model("llama-x16").widen) == (4, 16)
    assert resolve_model("./llama").path_or_id == str(tmp_path / "llama")
    assert resolve_model("mine").path_or_id == str(tmp_path / "mine")
    assert resolve_model("owner/name", revision="v1").model_dump(include={"path_or_id", "is_local", "revision"}) == {
        "path_or_id": "owner/name",
        "is_local": False,
        "revision": "v1",
    }
    assert not resolve_model("qwen3-8b").is_local


@pytest.mark.parametrize("name", ["lama", "./nowhere", "/nowhere/at/all", "", "two words", "a/b/c", "~/nowhere-at-all"])
def test_anything_else_is_no_model(name: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_model(name)
    assert "\n" not in str(caught.value)


def test_close_names_are_suggested_and_files_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFoundError, match="did you mean llama or"):
        resolve_model("lama")
    (tmp_path / "weights.bin").touch()
    with pytest.raises(AutodraftError, match="is a file"):
        resolve_model(str(tmp_path / "weights.bin"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(ModelNotFoundError):
        resolve_model("models/typo")
