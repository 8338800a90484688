"""`CachedEvaluator`: predictions remembered in a file, for programs that try many searchers on one target.

Knows nothing of what evaluates. The file is JSON Lines, one policy a line, appended as soon as it is known; the first
line says which target and which calibration (the times of a device) the predictions belong to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autodraft.cascade import Cascade
from autodraft.errors import InputError
from autodraft.evaluator import Evaluation, Evaluator, Rival, TrialFailed
from autodraft.policies.features import PolicyFeatures
from autodraft.policy import DraftPolicy
from autodraft.profile import write_atomically
from autodraft.profile_parts import WeightsFile


class CachedEvaluator:
    """Another evaluator, which is asked for every policy on the target's own weights only once.

    Args:
        evaluator: calibrated; answers what is not known.
        path: of the file; made when it is not there.
    """

    def __init__(self, evaluator: Evaluator, path: Path) -> None:
        self._evaluator, self._path = evaluator, path
        self._known: dict[str, Evaluation | str] = {}
        calibration = hashlib.sha256(json.dumps(evaluator.features.to_json()).encode()).hexdigest()[:16]
        target = {name: value for name, value in evaluator.identity.items() if name != "device"}
        header = {"target": target, "calibration": calibration}
        if path.is_file():
            self._read(path, header)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append(header)

    def _read(self, path: Path, header: Mapping[str, Any]) -> None:
        """Everything that is whole: a line that was cut off by a kill is evaluated again."""
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        if not lines or json.loads(lines[0]) != header:
            raise InputError(f"{path} holds predictions of another model, device or setting; choose another folder")
        if not text.endswith("\n"):
            lines = lines[:-1]
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        for line in lines[1:]:
            entry = json.loads(line)
            result = entry.get("evaluation")
            self._known[entry["digest"]] = entry["failed"] if result is None else Evaluation.from_json(result)

    def _append(self, entry: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    @property
    def identity(self) -> Mapping[str, str]:
        return self._evaluator.identity

    @property
    def features(self) -> PolicyFeatures:
        return self._evaluator.features

    def calibrate(self, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._evaluator.calibrate(state)

    def predict(self, policy: DraftPolicy, weights: WeightsFile | None = None) -> Evaluation:
        if weights is not None:
            return self._evaluator.predict(policy, weights)
        known = self._known.get(policy.digest)
        if isinstance(known, Evaluation):
            return known
        if known is not None:
            raise TrialFailed(known)
        try:
            evaluation = self._evaluator.predict(policy)
        except TrialFailed as error:
            self._known[policy.digest] = str(error)
            self._append({"digest": policy.digest, "failed": str(error)})
            raise
        self._known[policy.digest] = evaluation
        self._append({"digest": policy.digest, "evaluation": evaluation.to_json()})
        return evaluation

    def measure(self, cascade: Cascade, rival: Rival | None = None) -> Evaluation:
        return self._evaluator.measure(cascade, rival)

    def compare(self, cascades: Mapping[str, Cascade], seconds: float) -> dict[str, Evaluation]:
        return self._evaluator.compare(cascades, seconds)


def calibrated_in(evaluator: Evaluator, folder: Path) -> CachedEvaluator:
    """Calibrate an evaluator, or restore what a folder knows of it, and remember its predictions there."""
    folder.mkdir(parents=True, exist_ok=True)
    path, identity = folder / "calibration.json", dict(evaluator.identity)
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if known is not None and known["model"] != identity.get("model"):
        raise InputError(f"{path} is the calibration of another model; choose another folder")
    state = evaluator.calibrate(None if known is None else known["state"])
    if known is None:
        write_atomically(path, json.dumps({"model": identity.get("model"), "state": state}))
    return CachedEvaluator(evaluator, folder / "predictions.jsonl")
