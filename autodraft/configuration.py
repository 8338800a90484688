"""Configuration: which model a name stands for, and what a search job is. YAML in, checked values out.

Knows nothing of torch, weights or searching. A YAML file holds only differences from the defaults, unknown
keys are refused, and values given on the command line win over the file, which wins over the defaults.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from autodraft.errors import InputError, ModelNotFoundError
from autodraft.profile import first_problem, write_atomically

Searcher = Literal[
    "staged", "random", "tpe", "gp", "cmaes", "nsga2", "evolution", "knapsack",
    "ppo", "maskable-ppo", "a2c", "ddpg", "td3", "sac", "hierarchical",
]  # fmt: skip
Objective = Literal["speedup", "memory"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
Backend = Literal["auto", "native", "torch"]

RUNS_FOLDER = Path("autodraft-runs")
RESOLVED_CONFIG = "config.yaml"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Settings):
    """One file of configs/models: what a model name stands for."""

    description: str = Field(description="one line for `autodraft models`")
    bundled: str | None = Field(default=None, description="folder of the package's assets")
    hub_id: str | None = Field(default=None, pattern=_HUB_ID.pattern, description="repository on the Hugging Face hub")
    revision: str | None = Field(default=None, description="branch, tag or commit of the hub repository")
    widen: int = Field(default=1, ge=1, le=64, description="tile the weights this many times in width")

    @model_validator(mode="after")
    def _one_source(self) -> ModelConfig:
        if (self.bundled is None) == (self.hub_id is None):
            raise ValueError("a model has either 'bundled' or 'hub_id'")
        return self


class ModelEntry(_Settings):
    """What a model name resolved to."""

    name: str = Field(description="what was asked for")
    path_or_id: str = Field(description="a folder, or a hub id where `is_local` is false")
    is_local: bool
    widen: int = Field(default=1, description="part of the name's meaning; a widening asked for multiplies it")
    revision: str | None = None
    description: str = ""


class TargetSettings(_Settings):
    """Which model, how it is loaded, and the name that its outputs get."""

    model: str = Field(default="llama", description="configured name, hub id or folder of the target")
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub model")
    widen: int = Field(default=1, ge=1, le=64, description="tile the target's weights this many times in width")
    dtype: Dtype = Field(default="auto", description="precision of the target; auto is the checkpoint's own")
    device: Device = Field(default="auto", description="auto takes a CUDA device where there is one")
    backend: Backend = Field(default="auto", description="kernels: the compiled extension or torch's own")
    byte_planes: bool = Field(
        default=False,
        description="drafts at 8 bits read the upper bytes of a float16 target, without memory of their own",
    )

    @property
    def loading(self) -> dict[str, Any]:
        """How `load_model` is to load it, as keyword arguments."""
        return self.model_dump(include={"widen", "dtype", "device", "backend", "revision", "byte_planes"})

    @property
    def folder_name(self) -> str:
        """The model as the name of a folder."""
        name = self.model if _HUB_ID.fullmatch(self.model) else Path(self.model).expanduser().resolve().name
        suffix = f"-x{self.widen}" if self.widen > 1 else ""
        return name.replace("/", "--") + suffix


class SearchJob(TargetSettings):
    """Everything that decides a search; what is not said here is decided by the device."""

    searcher: Searcher = Field(default="staged", description="staged is the default; the rest are for comparison")
    controller: Path | None = Field(default=None, description="agent file that decides, in place of a searcher")
    budget: float | None = Field(
        default=None, gt=0, description="longest draft step, in target steps, that a controller decides for"
    )
    objectives: tuple[Objective, ...] = Field(
        default=("speedup",), min_length=1, description="what is optimised; memory is what drafts add to the target's"
    )
    num_trials: int = Field(default=60, ge=1, description="policies that are evaluated by acceptance and latency (F1)")
    budget_minutes: float | None = Field(
        default=8.0, gt=0, description="wall-clock limit of the whole search, baselines included; null is no limit"
    )
    seed: int = Field(default=0, ge=0, description="seed of the searcher and of the choice of prompts")
    output: Path | None = Field(default=None, description="folder of study and profile; null names it by the model")
    study_name: str = Field(default="autodraft", min_length=1, description="a study of this name is resumed")
    storage: str | None = Field(default=None, description="Optuna storage URL; null is study.db in the output folder")

    bits: tuple[Literal[4, 8, 16], ...] = Field(
        default=(16, 8, 4), min_length=1, description="bit-widths that drafts may use, where the device runs them"
    )
    channels: bool = Field(default=False, description="share the channels of a sub-layer out over bit-widths")
    max_draft_tokens: int = Field(default=8, ge=1, le=64, description="longest draft that is considered")
    max_extra_bytes: int | None = Field(default=None, ge=0, description="memory that drafts may add; null is no limit")
    free_drafts: bool = Field(
        default=True, description="whether the cascade may use prompt lookup and other drafts without a model"
    )

    prompts: Path | None = Field(
        default=None, description="JSON Lines in Spec-Bench's fields; null is the bundled prompts"
    )
    tasks: tuple[str, ...] = Field(default=(), description="prompt categories that count; empty is all")
    calibration_tokens: int = Field(default=512, ge=16, description="tokens for importance, sensitivity and acceptance")
    num_prompts: int = Field(default=12, ge=2, description="prompts that F2 measures each survivor on")
    new_tokens_per_prompt: int = Field(default=64, ge=8, description="tokens that F2 generates per prompt")
    temperature: float = Field(
        default=0.0, ge=0, description="temperature that F2 decodes at, so that of later use; 0 is greedy"
    )
    num_finalists: int = Field(default=4, ge=1, description="cascades that F2 measures")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="level of the speedup's bootstrap interval")
    hf_baseline: bool = Field(default=True, description="also measure the generate() of transformers")

    fit: bool = Field(
        default=True, description="fit the most promising drafts to the target; their weights lie beside the profile"
    )
    refitted: tuple[Path, ...] = Field(
        default=(), description="what `sparsify --as-draft` wrote (profile or folder): drafts beside those searched for"
    )
    routers: tuple[Path, ...] = Field(
        default=(), description="what `train-router` wrote (profile or folder): drafts beside those searched for"
    )

    @model_validator(mode="after")
    def _speedup_first(self) -> SearchJob:
        if self.objectives[0] != "speedup" or len(set(self.objectives)) != len(self.objectives):
            raise ValueError("objectives are 'speedup' alone, or 'speedup' and then 'memory'")
        return self

    @model_validator(mode="after")
    def _budget_of_a_controller(self) -> SearchJob:
        if self.budget is not None and self.controller is None:
            raise ValueError("a budget is what a trained controller decides for: give --controller as well")
        return self

    @property
    def output_folder(self) -> Path:
        """Where study, profile and report go."""
        return RUNS_FOLDER / self.folder_name if self.output is None else self.output

    def to_yaml(self) -> str:
        """Every field as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def save(self, folder: Path) -> None:
        """Write the resolved job into `folder`; `load_search_job` reads it back."""
        write_atomically(folder / RESOLVED_CONFIG, self.to_yaml())


def load_search_job(
    config: str | os.PathLike[str] | None = None, overrides: Mapping[str, Any] | None = None
) -> SearchJob:
    """The job of a YAML file, or of a name in configs/search, with `overrides` on top."""
    settings: dict[str, Any] = {}
    source = "search job"
    if config is not None:
        path = _search_config_path(config)
        settings, source = _read_yaml(path), str(path)
    return checked_settings(SearchJob, {**settings, **(overrides or {})}, source)


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """`["seed=3", "bits=[16, 8]"]` -> their values read as YAML."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise InputError(f"--set {assignment!r}: expected key=value")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set {assignment!r}: the value is no YAML") from error
    return values


@cache
def model_configs() -> dict[str, ModelConfig]:
    """Every file of configs/models by its name, in alphabetical order."""
    folder = _configs_folder("models")
    return {
        path.stem: checked_settings(ModelConfig, _read_yaml(path), str(path))
        for path in sorted(folder.glob("*.yaml"), key=_stem)
    }


def search_config_names() -> list[str]:
    """The names that `--config` takes besides files."""
    return sorted(path.stem for path in _configs_folder("search").glob("*.yaml"))


def resolve_model(name: str, revision: str | None = None) -> ModelEntry:
    """A configured name, else a folder, else a hub id; anything else is a `ModelNotFoundError`."""
    config = model_configs().get(name)
    if config is not None:
        return _configured(name, config, revision)
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return ModelEntry(name=name, path_or_id=str(folder.resolve()), is_local=True, revision=revision)
    if folder.is_file():
        raise ModelNotFoundError(f"{name} is a file; a model is a folder, a configured name or a hub id")
    if _HUB_ID.fullmatch(name) and not folder.parent.is_dir():
        return ModelEntry(name=name, path_or_id=name, is_local=False, revision=revision)
    close = difflib.get_close_matches(name, model_configs(), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else "`autodraft models` lists the configured names"
    raise ModelNotFoundError(f"no model {name!r}: no configured name, no folder and no hub id (owner/name); {hint}")


def _configured(name: str, config: ModelConfig, revision: str | None) -> ModelEntry:
    bundled = Path(str(files("autodraft"))) / "assets" / str(config.bundled)
    return ModelEntry(
        name=name,
        path_or_id=config.hub_id or str(bundled),
        is_local=config.hub_id is None,
        widen=config.widen,
        revision=revision or config.revision,
        description=config.description,
    )


def _stem(path: Path) -> str:
    return path.stem


def _search_config_path(config: str | os.PathLike[str]) -> Path:
    path = Path(config).expanduser()
    if path.is_file():
        return path
    if str(config) in search_config_names():
        return _configs_folder("search") / f"{config}.yaml"
    names = ", ".join(search_config_names())
    raise InputError(f"{config}: no such file, and no shipped search configuration ({names})")


def _configs_folder(kind: str) -> Path:
    return Path(str(files("autodraft.configs"))) / kind


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the configuration ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a YAML file ({str(error).splitlines()[0]})") from error
    if document is None:
        return {}
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise InputError(f"{path}: a configuration is a mapping of settings to values")
    return document


_S = TypeVar("_S", bound=_Settings)


def checked_settings(model: type[_S], settings: Mapping[str, Any], source: str) -> _S:
    """The values of `settings`; what is wrong with them in one line that names `source`."""
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        unknown = [str(problem["loc"][0]) for problem in error.errors() if problem["type"] == "extra_forbidden"]
        if not unknown:
            raise InputError(f"{source}: {first_problem(error)}") from error
        close = difflib.get_close_matches(unknown[0], model.model_fields, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"{source}: unknown setting {unknown[0]!r}{hint}") from error
