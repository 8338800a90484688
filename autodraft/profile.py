"""`DraftProfile`: what a search exports and the decoder loads, as one checked JSON file.

Knows nothing of weights, devices or decoding, and needs neither torch nor transformers: it only says
which target a cascade belongs to, on which device it was measured, what was measured there and where it
came from. Figures carry their fidelity: what is in `measurement` and `baselines` was measured, what is in
`priors` was measured piece by piece, and what is in `predicted` comes from the analytic formula.

docs/profile.md describes the format; autodraft/schemas/profile-v3.json is its JSON Schema.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, computed_field, model_validator

from autodraft.cascade import Cascade
from autodraft.errors import PolicyError, ProfileError
from autodraft.profile_parts import (
    Baseline,
    DeviceStamp,
    DraftPrior,
    Figures,
    Fingerprint,
    FrozenModel,
    Interval,
    Measurement,
    Prediction,
    Priors,
    Provenance,
    Sha256,
    TargetStamp,
    TaskFigures,
    WeightsFile,
)

__all__ = [
    "Baseline",
    "DeviceStamp",
    "DraftPrior",
    "DraftProfile",
    "Figures",
    "Fingerprint",
    "Interval",
    "Measurement",
    "Prediction",
    "Priors",
    "Provenance",
    "TargetStamp",
    "TaskFigures",
    "WeightsFile",
    "profile_schema",
]

SCHEMA_VERSION = 4
KIND = "autodraft-profile"
_KINDS = {"prompt-lookup", "suffix-automaton", "token-recycling", "self-draft", "routed-draft"}
SCHEMA_ID = f"urn:autodraft:schema:profile-v{SCHEMA_VERSION}"


class DraftProfile(FrozenModel):
    """A cascade for one target on one device, what was measured of it, and where it came from."""

    kind: Literal["autodraft-profile"] = "autodraft-profile"
    schema_version: Literal[4] = 4
    conclusion: Literal["speculate", "autoregressive"] = Field(
        description='"autoregressive" where no cascade is faster than decoding token by token, with confidence'
    )
    target: TargetStamp
    device: DeviceStamp
    cascade: Cascade = Field(description='what the decoder runs; no drafts where the conclusion is "autoregressive"')
    rejected: Cascade | None = Field(
        default=None,
        description='the best candidate, where the conclusion is "autoregressive"; priors and figures are then its own',
    )
    priors: Priors = Priors()
    measurement: Measurement | None = Field(default=None, description="null where the search ended before it measured")
    predicted: Prediction | None = None
    baselines: tuple[Baseline, ...] = ()
    provenance: Provenance

    @model_validator(mode="after")
    def _conclusion_matches_cascade(self) -> DraftProfile:
        if (self.conclusion == "autoregressive") != self.cascade.is_autoregressive:
            count = len(self.cascade.drafts)
            raise ValueError(f'the conclusion is "{self.conclusion}", but the cascade has {count} drafts')
        num_priors, drafts = len(self.priors.drafts), (self.rejected or self.cascade).drafts
        if num_priors and num_priors != len(drafts):
            raise ValueError(f"priors.drafts has {num_priors} entries for {len(drafts)} drafts")
        return self

    @computed_field(description="SHA-256 of the canonical JSON of all other fields")  # type: ignore[prop-decorator]
    @property
    def checksum(self) -> Sha256:
        return _checksum(self.model_dump(mode="json", exclude={"checksum"}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DraftProfile:
        """Read and check a profile; whatever is wrong with it becomes a `ProfileError` of one line."""
        source = Path(path)
        document = _read_object(source)
        if document.get("kind") != KIND:
            raise ProfileError(f'{source}: this JSON is no draft profile (its "kind" is not "{KIND}")')
        version: Any = document.get("schema_version")
        is_number = isinstance(version, int) and not isinstance(version, bool)
        if is_number and version > SCHEMA_VERSION:
            problem = f"schema version {version}, this autodraft reads up to {SCHEMA_VERSION}; upgrade autodraft"
            raise ProfileError(f"{source}: the profile has {problem}")
        checksum = document.pop("checksum", None)
        intact = checksum == _checksum(document)
        while is_number and document["schema_version"] in _MIGRATIONS:
            _MIGRATIONS[document["schema_version"]](document)
        try:
            profile = cls.model_validate_json(json.dumps(document), strict=True, context={"folder": source.parent})
        except ValidationError as error:
            raise ProfileError(f"{source}: {first_problem(error)}") from error
        if not intact:
            raise ProfileError(f"{source}: the content does not match its checksum; it was changed after the export")
        return profile

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile in one step: readers see the old file or the new one, never half of it."""
        destination = Path(path)
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(destination, self.model_dump_json(indent=2) + "\n")
        except OSError as error:
            raise ProfileError(f"{destination}: cannot write the profile ({error.strerror})") from error

    def check_target(
        self, fingerprint: Mapping[str, str], num_blocks: int, num_kv_heads: int, widen: int | None = None
    ) -> None:
        """Raise `ProfileError` unless the profile was made for this model; `widen` is compared where it is given."""
        expected = self.target.fingerprint.model_dump()
        different = [part for part in expected if fingerprint.get(part) != expected[part]]
        if different:
            parts = " and ".join(different)
            raise ProfileError(f"the profile was made for {self.target.name}, not for this model: {parts} differ")
        if widen is not None and widen != self.target.widen:
            made = f"the profile was made for widen {self.target.widen}"
            raise ProfileError(f"{made}, the model is loaded with widen {widen}")
        for policy in self.cascade.policies:
            try:
                policy.check(num_blocks, num_kv_heads)
            except PolicyError as error:
                raise ProfileError(f"the profile does not fit this model: {error}") from error

    def device_mismatch(self, stamp: DeviceStamp) -> str | None:
        """A warning where the profile was measured on something else than `stamp`, else None."""
        parts = {
            part: (getattr(self.device, part), getattr(stamp, part))
            for part in ("kind", "name", "threads", "backend")
            if getattr(self.device, part) != getattr(stamp, part)
        }
        if not parts:
            return None
        changes = ", ".join(f"{part} {old} there and {new} here" for part, (old, new) in parts.items())
        offer = "its speedup may differ: re-measure with `autodraft bench`"
        return f"the profile was measured on another device ({changes}); {offer}"


def profile_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a saved profile."""
    schema = DraftProfile.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **schema}


def first_problem(error: ValidationError) -> str:
    """The first of a validation's problems in one line, led by the path of its field."""
    problem = error.errors()[0]
    path = ""
    for part in problem["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in (*_KINDS, "[key]"):
            path += f".{part}" if path else part
    message = "unknown field" if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{path}: {message}{more}" if path else f"{message}{more}"


def write_atomically(destination: Path, text: str) -> None:
    """Write a file beside its destination and rename it into place."""
    handle, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, destination)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read_object(source: Path) -> dict[str, Any]:
    try:
        document = json.loads(source.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError as error:
        raise ProfileError(f"{source}: no such profile; `autodraft search` makes one") from error
    except OSError as error:
        raise ProfileError(f"{source}: cannot read the profile ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"{source}: not a JSON file ({error})") from error
    if not isinstance(document, dict):
        raise ProfileError(f"{source}: a draft profile is a JSON object, not a {type(document).__name__}")
    return document


def _from_version_1(document: dict[str, Any]) -> None:
    """Version 1 had no scheduler; whether a self-draft made a chain or a tree was among its own settings."""
    document["schema_version"] = 2
    for cascade in (document.get("cascade"), document.get("rejected")):
        drafts = cascade.get("drafts") if isinstance(cascade, dict) else None
        for draft in drafts if isinstance(drafts, list) else []:
            if isinstance(draft, dict) and draft.get("kind") == "self-draft":
                branching, max_nodes = draft.pop("branching", 1), draft.pop("max_nodes", 16)
                if branching != 1:
                    tree = {"kind": "static-tree", "branching": branching, "max_nodes": max_nodes}
                    cascade["scheduler"] = tree  # type: ignore[index]


def _from_version_2(document: dict[str, Any]) -> None:
    """Version 2 knew no weights of a draft's own; what it says means the same now."""
    document["schema_version"] = 3


def _from_version_3(document: dict[str, Any]) -> None:
    """Version 3 knew no byte planes of a target; what it says means the same now."""
    document["schema_version"] = 4


_MIGRATIONS = {1: _from_version_1, 2: _from_version_2, 3: _from_version_3}


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _checksum(document: Mapping[str, Any]) -> str:
    canonical = json.dumps(_integral(document), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _integral(value: Any) -> Any:
    """1.0 becomes 1, so that reformatting by another JSON tool changes no checksum."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _integral(item) for key, item in value.items()}
    return [_integral(item) for item in value] if isinstance(value, list | tuple) else value
