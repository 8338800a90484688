"""The command line: what it prints where, its exit codes, and one line for each kind of bad input."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from autodraft import __version__
from autodraft.cli import app
from autodraft.cli.progress import SearchDisplay
from autodraft.errors import UnsupportedModelError
from autodraft.profile import DraftProfile, Fingerprint, profile_schema
from autodraft.search.loop import SearchProgress
from tests.conftest import save_tiny_model

PROMPT = "def f(x):"
Run = Callable[..., Any]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command in an empty folder, offline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object, **options: Any) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)

    return run


@pytest.fixture
def profile_path(profile: DraftProfile, tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A saved profile that belongs to the tiny model."""
    from autodraft.runtime import load_model

    fingerprint = Fingerprint(**load_model(str(tiny_model_folder), backend="torch").fingerprint)
    stamp = profile.target.model_copy(update={"path": str(tiny_model_folder), "fingerprint": fingerprint})
    path = tmp_path / "tiny-profile.json"
    profile.model_copy(update={"target": stamp}).save(path)
    return path


def assert_refused(result: Any, message: str) -> None:
    """Exit code 2, and one line on stderr that says why."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


# --- information ---------------------------------------------------------------------------------------------------


def test_help_names_every_command(run: Run) -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in ("search", "train-controller", "generate", "bench", "simulate", "profile", "models", "device"):
        assert command in result.stdout
        assert run(command, "--help").exit_code == 0


def test_the_version(run: Run) -> None:
    assert run("--version").stdout.startswith(f"autodraft {__version__} ")
    module = subprocess.run(
        [sys.executable, "-m", "autodraft", "--version"], capture_output=True, text=True, check=True
    )
    assert module.stdout == run("--version").stdout


@pytest.mark.parametrize("arguments", [("fly",), ("search", "--trials", "none"), ("generate", "--wings")])
def test_wrong_usage_is_exit_code_2(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_models_lists_what_names_resolve_to(run: Run) -> None:
    rows = {row["name"]: row for row in json.loads(run("models", "--json").stdout)}
    assert rows["llama-x4"]["widen"] == 4
    assert rows["qwen3-8b"]["path_or_id"] == "Qwen/Qwen3-8B"
    assert not rows["qwen3-8b"]["is_local"]
    assert all(name in run("models").stdout for name in rows)


def test_device_prints_the_stamp_that_profiles_carry(run: Run) -> None:
    facts = json.loads(run("device", "--device", "cpu", "--json").stdout)
    assert facts["kind"] == "cpu"
    assert facts["backend"] in ("native", "torch")
    assert facts["versions"]["autodraft"] == __version__
    assert facts["name"] in run("device", "--device", "cpu").stdout


# --- generate ------------------------------------------------------------------------------------------------------


def test_a_profile_changes_the_speed_and_not_the_text(run: Run, tiny_model_folder: Path, profile_path: Path) -> None:
    options = ("--prompt", PROMPT, "--max-new-tokens", 24)
    plain = run("generate", "--model", tiny_model_folder, *options)
    speculated = run("generate", "--profile", profile_path, "--compare", *options)
    assert plain.exit_code == speculated.exit_code == 0, speculated.output
    assert plain.stdout == speculated.stdout
    assert re.search(r"^\d+ tokens \((length|eos)\), [\d.]+ tokens/s, 1.00 tokens per cycle", plain.stderr)
    assert re.search(r"speedup [\d.]+x over autoregressive .* identical tokens\)", speculated.stderr)


def test_the_prompt_may_come_from_a_file_or_stdin(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text(PROMPT)
    options = ("generate", "--model", tiny_model_folder, "--max-new-tokens", 8)
    by_option = run(*options, "--prompt", PROMPT)
    assert by_option.exit_code == 0
    assert run(*options, "--prompt-file", tmp_path / "prompt.txt").stdout == by_option.stdout
    assert run(*options, input=PROMPT).stdout == by_option.stdout


def test_sampling_is_reproducible_and_stop_strings_end_the_text(run: Run, tiny_model_folder: Path) -> None:
    options = ("generate", "--model", tiny_model_folder, "--prompt", PROMPT, "--temperature", 1.0, "--seed", 7)
    text = run(*options, "--max-new-tokens", 32).stdout
    assert run(*options, "--max-new-tokens", 32).stdout == text
    stop = text.rstrip("\n")[5:7]
    stopped = run(*options, "--max-new-tokens", 32, "--stop", stop)
    assert stopped.stdout == text[: text.index(stop)] + "\n"
    assert "(stop)" in stopped.stderr


def test_another_device_is_a_warning(run: Run, profile_path: Path) -> None:
    result = run("generate", "--profile", profile_path, "--prompt", PROMPT, "--max-new-tokens", 2)
    assert result.exit_code == 0
    assert "warning: the profile was measured on another device (name a processor there" in result.stderr


def test_a_profile_of_byte_planes_is_loaded_in_planes(run: Run, profile_path: Path, tiny_model_folder: Path) -> None:
    from autodraft.runtime import load_model

    saved, half = DraftProfile.load(profile_path), load_model(str(tiny_model_folder), dtype="float16")
    changes = {"byte_planes": True, "dtype": "float16", "fingerprint": Fingerprint(**half.fingerprint)}
    saved.model_copy(update={"target": saved.target.model_copy(update=changes)}).save(profile_path)
    options = ("generate", "--profile", profile_path, "--prompt", PROMPT, "--max-new-tokens", 8)
    warning = "the profile was made with --byte-planes"
    assert warning not in (same := run(*options)).stderr
    assert warning in (other := run(*options, "--no-byte-planes")).stderr
    assert same.exit_code == other.exit_code == 0 and same.stdout == other.stdout
    plain = ("generate", "--model", tiny_model_folder, "--prompt", PROMPT, "--byte-planes")
    assert_refused(run(*plain), "no sub-layer has float16 weights")


# --- bad input -----------------------------------------------------------------------------------------------------


def test_a_bad_prompt_is_refused(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    generate = ("generate", "--model", tiny_model_folder)
    assert_refused(run(*generate, "--prompt", ""), "the prompt is empty")
    assert_refused(run(*generate, input=""), "the prompt is empty")
    assert_refused(run(*generate, "--prompt", "x" * 300), "300 prompt tokens and 128 new ones are more than the 256")
    assert_refused(run(*generate, "--prompt-file", tmp_path / "none.txt"), "cannot read the prompt")
    assert_refused(run(*generate, "--prompt-file", tmp_path, "--prompt", PROMPT), "not both")
    assert_refused(run(*generate, "--prompt", PROMPT, "--chat"), "no chat template")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert_refused(run(*generate, "--prompt-file", tmp_path / "binary"), "not UTF-8")
    assert_refused(run("generate", "--prompt", PROMPT), "give --model, --profile or both")


def test_a_bad_model_is_refused(run: Run, tmp_path: Path) -> None:
    def generate(model: object) -> Any:
        return run("generate", "--model", model, "--prompt", PROMPT)

    assert_refused(generate("./nowhere"), "no model './nowhere'")
    assert_refused(generate("lama"), "did you mean llama")
    assert_refused(generate("nobody/nothing"), "cannot load the configuration of 'nobody/nothing'")
    (tmp_path / "empty").mkdir()
    assert_refused(generate("empty"), "config")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    assert_refused(generate("broken"), "config")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bloom", "architectures": ["BloomForCausalLM"]}')
    assert_refused(generate("other"), "bloom")
    (tmp_path / "unknown").mkdir()
    (tmp_path / "unknown" / "config.json").write_text('{"model_type": "no-such-architecture"}')
    assert_refused(generate("unknown"), "no-such-architecture")


def test_a_folder_without_weights_or_tokenizer_is_refused(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    for missing in ("model.safetensors", "tokenizer.json"):
        folder = tmp_path / missing
        folder.mkdir()
        for path in tiny_model_folder.iterdir():
            if path.name != missing:
                (folder / path.name).symlink_to(path)
        assert_refused(run("generate", "--model", folder, "--prompt", PROMPT), "cannot load the ")


def test_a_bad_profile_is_refused(run: Run, profile_path: Path, tmp_path: Path) -> None:
    def generate(path: Path, *options: object) -> Any:
        return run("generate", "--profile", path, "--prompt", PROMPT, *options)

    assert_refused(generate(tmp_path / "none.json"), "no such profile")
    other = save_tiny_model(tmp_path / "other", seed=1)
    assert_refused(generate(profile_path, "--model", other), "not for this model: weights differ")
    assert_refused(generate(profile_path, "--widen", 2, "--model", profile_target(profile_path)), "widen")
    profile_path.write_text(profile_path.read_text().replace('"num_draft_tokens": 3', '"num_draft_tokens": 4'))
    assert_refused(generate(profile_path), "does not match its checksum")


def profile_target(path: Path) -> str:
    return DraftProfile.load(path).target.path


def test_bad_devices_and_precisions_are_refused(run: Run, tiny_model_folder: Path) -> None:
    generate = ("generate", "--model", tiny_model_folder, "--prompt", PROMPT)
    assert_refused(run(*generate, "--device", "cuda:99"), "--device cuda:99")
    assert_refused(run(*generate, "--device", "toaster"), "--device toaster")
    assert_refused(run("device", "--device", "toaster"), "--device toaster")
    assert_refused(run(*generate, "--dtype", "int3"), "--dtype int3")
    assert_refused(run(*generate, "--backend", "none"), "none")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UnsupportedModelError("two\nlines"), 2, "error: two lines\n"),
        (PermissionError(13, "Permission denied", "/etc/x"), 2, "error: /etc/x: Permission denied"),
        (MemoryError(), 2, "error: out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), 2, "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), 2, "error: out of memory"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_failures_on_the_way_are_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("autodraft.runtime.load_model", fail)
    result = run("generate", "--model", "llama", "--prompt", PROMPT)
    assert result.exit_code == code
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_bug_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr("autodraft.runtime.load_model", fail)
    assert isinstance(run("generate", "--model", "llama", "--prompt", PROMPT).exception, RuntimeError)


# --- profile -------------------------------------------------------------------------------------------------------


def test_profile_show_prints_every_part(run: Run, profile_path: Path) -> None:
    result = run("profile", "show", profile_path)
    assert result.exit_code == 0
    for part in ("1.60x (1.50 to 1.75)", "prompt-lookup", "self-draft", "edit", "hf-generate", "predicted", "trial 12"):
        assert part in result.stdout
    assert json.loads(run("profile", "show", profile_path, "--json").stdout) == json.loads(profile_path.read_text())


def test_profile_validate_says_valid_or_why_not(run: Run, profile_path: Path, tmp_path: Path) -> None:
    result = run("profile", "validate", profile_path)
    assert result.exit_code == 0
    assert "valid; speculate: 1.60x (1.50 to 1.75) over autoregressive, measured" in result.stdout
    assert run("profile", "validate", profile_path, "--model", profile_target(profile_path)).exit_code == 0
    other = save_tiny_model(tmp_path / "other", seed=1)
    assert_refused(run("profile", "validate", profile_path, "--model", other), "weights differ")
    (tmp_path / "p.json").write_text("{}")
    assert_refused(run("profile", "validate", tmp_path / "p.json"), "no draft profile")


def test_profile_schema_prints_the_schema(run: Run) -> None:
    assert json.loads(run("profile", "schema").stdout) == profile_schema()


# --- bench ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def prompt_file(tmp_path: Path) -> str:
    lines = [json.dumps({"question_id": n, "category": "edit", "turns": [f"def f{n}(x):"]}) for n in range(2)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    return "prompts.jsonl"


def test_bench_measures_a_profile_beside_its_baselines(
    run: Run, profile_path: Path, prompt_file: str, tmp_path: Path
) -> None:
    options = ("--prompts", prompt_file, "--num-prompts", 2, "--new-tokens", 8, "--output", "reports/llama-3.2")
    methods = ("--methods", "profile,prompt-lookup,chain,hf-generate", "--no-hf")
    result = run("bench", "--profile", profile_path, *options, *methods, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    rows = {(row["method"], row["task"]): row for row in document["rows"]}
    assert rows["profile", "overall"]["num_identical"] == 2
    assert ("prompt-lookup", "edit") in rows
    assert {method for method, _ in rows} == {"autoregressive", "profile", "prompt-lookup"}
    assert document["unavailable"] == {"chain": "the profile's own scheduler"}
    assert "2 of 2 prompts" in result.stderr
    assert json.loads((tmp_path / "reports/llama-3.2.json").read_text()) == document
    figures = f"| profile | {rows['profile', 'overall']['tokens_per_s']:.1f} |"
    text = (tmp_path / "reports/llama-3.2.md").read_text()
    assert figures in text and "(llama-3.2.png)" in text
    assert (tmp_path / "reports/llama-3.2.png").read_bytes().startswith(b"\x89PNG")


def test_bench_prints_tables_and_samples(run: Run, tiny_model_folder: Path, prompt_file: str) -> None:
    options = ("--prompts", prompt_file, "--num-prompts", 2, "--new-tokens", 8, "--temperature", 0.7)
    result = run("bench", "--model", tiny_model_folder, *options, "--methods", "token-recycling,profile")
    assert result.exit_code == 0, result.output
    assert "token-recycling" in result.stdout and "2/2" in result.stdout
    assert "temperature 0.7" in result.stdout
    assert "not run: profile (no profile was given)" in result.stdout


def test_bench_refuses_bad_prompts(run: Run, profile_path: Path, tmp_path: Path) -> None:
    bench = ("bench", "--profile", profile_path, "--no-hf")
    assert_refused(run(*bench, "--prompts", "none.jsonl"), "none.jsonl: no such prompt file")
    (tmp_path / "bad.jsonl").write_text('{"question_id": 1}')
    assert_refused(run(*bench, "--prompts", "bad.jsonl"), "bad.jsonl, line 1: the field 'category' is missing")
    assert_refused(run(*bench, "--task", "poetry"), "no prompts of the category poetry")
    assert_refused(run(*bench, "--methods", "profile,magic"), "no method magic; there are autoregressive, profile")
    assert_refused(run("bench"), "give --model, --profile or both")


# --- search --------------------------------------------------------------------------------------------------------


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch, profile: DraftProfile) -> SimpleNamespace:
    """Stands in for the search: keeps the job, raises `error` if there is one, returns the profile."""
    state = SimpleNamespace(job=None, error=None)

    def run_search(job: Any, on_progress: Callable[[Any], None]) -> DraftProfile:
        state.job = job
        profile.save(job.output_folder / "profile.json")
        if state.error is not None:
            raise state.error
        return profile

    monkeypatch.setattr("autodraft.search.run_search", run_search)
    return state


def test_search_merges_flags_and_file_and_prints_the_profile(
    run: Run, searched: SimpleNamespace, tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text("seed: 3\nnum_trials: 7\nmodel: qwen3-8b\n")
    flags = ("--model", "llama", "--trials", 9, "--objectives", "speedup,memory", "--set", "confidence=0.9")
    flags = (*flags, "--byte-planes", "--dtype", "float16")
    result = run("search", "--config", "job.yaml", *flags)
    assert result.exit_code == 0, result.output
    job = searched.job
    assert (job.model, job.num_trials, job.seed, job.confidence) == ("llama", 9, 3, 0.9)
    assert job.objectives == ("speedup", "memory") and job.byte_planes
    assert result.stdout == f"{Path('autodraft-runs/llama/profile.json')}\n"
    assert "assets/llama" in result.stderr
    assert "speculate: 1.60x" in result.stderr


def test_search_refuses_bad_settings(run: Run, searched: SimpleNamespace) -> None:
    assert_refused(run("search", "--searcher", "grid"), "searcher: Input should be 'staged'")
    assert_refused(run("search", "--set", "colour=blue"), "unknown setting 'colour'")
    assert_refused(run("search", "--set", "colour"), "expected key=value")
    assert_refused(run("search", "--config", "none.yaml"), "none.yaml: no such file")
    assert_refused(run("search", "--minutes", 0), "budget_minutes")
    assert_refused(run("search", "--model", "./nowhere"), "no model './nowhere'")
    assert_refused(run("search", "--router", "none"), "--router none: no such profile; `autodraft train-router` makes")
    assert searched.job is None


def test_a_controller_is_trained_resumed_and_used(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    train = ("train-controller", "--model", tiny_model_folder, "--output", "agent", "--backend", "torch")
    result = run(*train, "--episodes", 16, "--set", "width=8")
    assert result.exit_code == 0, result.output
    assert result.stdout == "agent/agent.zip\n" and "train: 1 of at most 16" in result.stderr
    assert run(*train, "--episodes", 20, "--set", "width=8").exit_code == 0
    assert len((tmp_path / "agent" / "curve.jsonl").read_text().splitlines()) == 32
    search = ("search", "--model", tiny_model_folder, "--output", "out", "--backend", "torch", "--minutes", 0.2)
    quick = ("--set", "num_prompts=2", "--set", "new_tokens_per_prompt=8", "--set", "hf_baseline=false")
    result = run(*search, *quick, "--controller", "agent/agent.zip", "--budget", 0.9)
    assert result.exit_code == 0, result.output
    trials = (tmp_path / "out" / "trials.csv").read_text()
    assert "controller" in trials and "mutation" not in trials
    assert DraftProfile.load(tmp_path / "out" / "profile.json").provenance.searcher == "controller"


def test_bad_controllers_are_refused(run: Run, searched: SimpleNamespace, tmp_path: Path) -> None:
    assert_refused(run("search", "--budget", 0.3), "give --controller as well")
    assert_refused(run("search", "--budget", -1, "--controller", "a.zip"), "budget: Input should be greater than 0")
    assert_refused(run("train-controller", "--algorithm", "dqn"), "algorithm: Input should be 'ppo'")
    assert_refused(run("train-controller", "--set", "wings=2"), "unknown agent setting 'wings'")
    assert_refused(run("train-controller", "--set", "learning_rate=0"), "learning_rate is 0; it must be positive")
    assert_refused(run("train-controller", "--model", "./nowhere"), "no model './nowhere'")


def test_a_missing_agent_file_is_refused_before_anything_is_loaded(run: Run, tmp_path: Path) -> None:
    assert_refused(run("search", "--controller", "none.zip"), "none.zip: no such agent file")
    assert not (tmp_path / "autodraft-runs").exists()


def test_an_interrupted_search_says_where_the_best_so_far_is(run: Run, searched: SimpleNamespace) -> None:
    searched.error = KeyboardInterrupt()
    result = run("search", "--model", "llama", "--output", "here")
    assert result.exit_code == 130
    assert "interrupted; the best so far is in here/profile.json; run the same command to resume" in result.stderr


def test_show_config_prints_a_configuration_that_reads_back(run: Run, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(run("search", "--config", "quick", "--show-config").stdout)
    first = (tmp_path / "job.yaml").read_text()
    assert "budget_minutes: 2" in first
    assert run("search", "--config", "job.yaml", "--show-config").stdout == first


def test_plain_progress_is_one_line_per_stage() -> None:
    stream = io.StringIO()
    with SearchDisplay(stream) as display:
        display.update(SearchProgress("calibrate", 0, 0))
        for trial in (1, 2, 3):
            display.update(SearchProgress("seeds", trial, 9, 1.5, "predicted", 130.0))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0] == "[0:00] calibrate: begun"
    assert lines[1] == "[0:00] seeds: 1 of at most 9, best so far 1.50x (predicted), about 2:10 left"


def test_a_terminal_gets_one_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    with SearchDisplay(stream) as display:
        display.update(SearchProgress("measure", 1, 4, 1.43, "measured", None))
    assert "best so far 1.43x (measured)" in stream.getvalue()
