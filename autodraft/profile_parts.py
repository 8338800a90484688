"""The parts of a `DraftProfile`: stamps that say what something belongs to, and figures that say how fast it was.

Knows nothing of devices or decoding: plain frozen values, checked when they are made. Every figure carries its
fidelity, measured or predicted, in its type.
"""

from __future__ import annotations

import hashlib
from math import inf
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from autodraft.errors import ProfileError

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
UpperBound = Annotated[Positive | None, BeforeValidator(lambda bound: None if bound == inf else bound)]


class FrozenModel(BaseModel):
    """Base of all parts: unknown fields are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class WeightsFile(FrozenModel):
    """A safetensors file that travels with a profile, and the checksum by which it is known again.

    Its folder is that of the profile: `DraftProfile.load` says so by the validation context `{"folder": Path}`. It is
    no part of the value: equal paths and checksums are equal files, wherever they lie.
    """

    file: str = Field(description="path relative to the profile's folder, within it, with slashes")
    sha256: Sha256 = Field(description="SHA-256 of the file's bytes")
    _folder: Path = PrivateAttr(default=Path())

    @classmethod
    def of(cls, path: Path, folder: Path) -> WeightsFile:
        """What a profile in `folder` says of the existing file at `path`, which lies within it."""
        weights = cls(file=path.relative_to(folder).as_posix(), sha256=_sha256(path))
        weights._folder = folder
        return weights

    @field_validator("file")
    @classmethod
    def _inside(cls, file: str) -> str:
        path = PurePosixPath(file)
        if not path.name or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{file!r} is no path of a file within the profile's folder")
        return file

    @model_validator(mode="after")
    def _beside_its_profile(self, info: ValidationInfo) -> WeightsFile:
        if info.context is not None:
            self._folder = info.context["folder"]
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WeightsFile) and (self.file, self.sha256) == (other.file, other.sha256)

    def __hash__(self) -> int:
        return hash((self.file, self.sha256))

    def verified_path(self) -> Path:
        """Where the file is; a `ProfileError` where there is none or its bytes are others."""
        path = self._folder / self.file
        try:
            found = _sha256(path)
        except OSError as error:
            raise ProfileError(f"{path}: cannot read these weights of the profile ({error.strerror})") from error
        if found != self.sha256:
            raise ProfileError(f"{path}: these are not the weights that the profile was made with (checksum differs)")
        return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Fingerprint(FrozenModel):
    """Hashes that tell one target from another, taken from the files before any widening."""

    config: Sha256 = Field(description="SHA-256 of the settings that shape the architecture")
    weights: Sha256 = Field(description="SHA-256 that identifies the weights")


class TargetStamp(FrozenModel):
    """The model that the cascade drafts for."""

    name: str = Field(description="the model as it was typed: a configured name, a hub id or a folder")
    path: str = Field(description="what the name resolved to: a folder or a hub id")
    family: str = Field(description="the architecture, as Hugging Face's `model_type` names it")
    widen: int = Field(default=1, ge=1, description="times the weights are tiled in width; 1: as they are")
    dtype: str = Field(description="precision of the target, such as bfloat16")
    byte_planes: bool = Field(
        default=False, description="whether 8 bits are the upper bytes of the target's own weights"
    )
    fingerprint: Fingerprint


class DeviceStamp(FrozenModel):
    """Where something was measured; figures of another device are not comparable."""

    kind: Literal["cpu", "cuda"]
    name: str = Field(description="the processor's or the accelerator's name")
    cores: int | None = Field(default=None, ge=1, description="CPU cores that the process may use")
    threads: int | None = Field(default=None, ge=1, description="threads that the kernels use")
    backend: Literal["native", "torch"] = Field(description="which kernels ran: the compiled extension or torch's own")
    versions: dict[str, str] = Field(default_factory=dict, description="torch, transformers, autodraft, python, ...")


class Interval(FrozenModel):
    """A median with its bootstrap confidence interval."""

    median: Positive
    ci_low: float = Field(ge=0)
    ci_high: UpperBound = Field(description="null where nothing bounds it from above, as with a single prompt")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="level of the interval")

    @model_validator(mode="after")
    def _ordered(self) -> Interval:
        if self.ci_high is not None and self.ci_low > self.ci_high:
            raise ValueError(f"the interval {self.ci_low} to {self.ci_high} is upside down")
        return self


class Figures(FrozenModel):
    """Decoding with the cascade against autoregressive decoding, paired and interleaved on the same prompts."""

    speedup: Interval = Field(description="candidate over autoregressive decoding of the same runtime")
    tokens_per_s: Positive = Field(description="the candidate's, prefill excluded")
    baseline_tokens_per_s: Positive = Field(description="autoregressive decoding's, prefill excluded")
    tokens_per_cycle: float = Field(ge=1, description="committed tokens per target forward, bonus token included")
    num_prompts: int = Field(ge=1)


class TaskFigures(Figures):
    """The figures of one prompt category."""

    task: str


class Measurement(Figures):
    """F2: what decoding really achieved on this device, overall and per task."""

    fidelity: Literal["measured"] = "measured"
    new_tokens_per_prompt: int = Field(ge=1)
    temperature: float = Field(default=0.0, ge=0, description="of the decoding that was measured; 0: greedy")
    tasks: tuple[TaskFigures, ...] = ()


class Prediction(FrozenModel):
    """What the analytic formula expects from alpha, cost and verify_cost; never to be quoted as a speedup."""

    fidelity: Literal["predicted"] = "predicted"
    speedup: Positive
    tokens_per_cycle: float = Field(ge=1)


class Baseline(FrozenModel):
    """Another way to decode the same prompts with the same target, measured beside the candidate."""

    name: str = Field(description='"autoregressive", "hf-generate", "prompt-lookup", ...')
    fidelity: Literal["measured"] = "measured"
    tokens_per_s: Positive
    speedup: Interval | None = Field(default=None, description="over autoregressive decoding of the same runtime")
    settings: dict[str, str] = Field(
        default_factory=dict, description="what it ran with: attention implementation, ..."
    )


class DraftPrior(FrozenModel):
    """What a scheduler may expect of one draft before it has seen a token."""

    alpha: Share = Field(description="share of its tokens that is accepted where all tokens before them are")
    cost: float = Field(ge=0, description="one draft step over one target step (one token)")
    cost_by_rows: dict[int, Positive] = Field(
        default_factory=dict, description="number of query tokens -> draft forward over them, over one target step"
    )
    extra_bytes: int = Field(default=0, ge=0, description="memory that its weights add to the target's")
    acceptance_by_class: tuple[Share, ...] = Field(
        default=(),
        description="of a free draft, acceptance by what a token comes with (length of a match, rank), then the same"
        " where a model has chosen another token; empty: not known",
    )


class Priors(FrozenModel):
    """Acceptance and latency priors of the cascade on this device."""

    drafts: tuple[DraftPrior, ...] = Field(default=(), description="one for each draft of the cascade, in its order")
    verify_cost: dict[int, Positive] = Field(
        default_factory=dict, description="number of query tokens -> target forward over them, over one target step"
    )
    tokens_per_cycle: float | None = Field(default=None, ge=1, description="of the whole cascade")
    rate: Positive | None = Field(default=None, description="committed tokens per target step of the whole cascade")


class Provenance(FrozenModel):
    """Where the profile came from, so that it can be made again."""

    study: str = Field(description="name of the Optuna study")
    storage: str = Field(description="where the study is stored, without credentials")
    trial: int | None = Field(default=None, ge=0, description="number of the trial that was exported")
    searcher: str | None = None
    seed: int
    command: str = Field(description="the command line, or the call, that made it")
    created: AwareDatetime = Field(description="UTC")
    versions: dict[str, str] = Field(default_factory=dict, description="versions of the software that searched")
