"""`sparsify`: a job in, a smaller target or a refitted draft out, with a report of what it cost.

Knows nothing of how the training works: it puts target, text and training together and writes the results. Running the
same job again continues it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

import autodraft
from autodraft.errors import InputError
from autodraft.fitting.closed_form import fit_draft
from autodraft.policy import FULL_BITS, DraftPolicy
from autodraft.policy_text import decode_policy, encode_policy
from autodraft.profile import write_atomically
from autodraft.runtime import LoadedModel, ModelSpec, load_hf_model, load_model
from autodraft.runtime.draft_weights import kept_sub_layers, save_draft_weights
from autodraft.runtime.hf_weights import read_weights
from autodraft.runtime.precision import fast_precision
from autodraft.runtime.weights import TargetWeights
from autodraft.sparsify_job import SparsifyJob
from autodraft.training.refitted_draft import PROFILE_NAME, WEIGHTS_NAME, uniform_policy, write_draft
from autodraft.training.sparse_report import SparsifyReport
from autodraft.training.sparse_target import save_sparse_target, sparse_model
from autodraft.training.sparsifier import Recipe, Sparsifier, TrainingProgress
from autodraft.training.texts import TextStreams, load_streams

REPORT_NAME = "sparsify.json"
TRAINING_FOLDER = "training"
_FITTED_TOKENS = 16_384
_LABEL_WEIGHT = 1.0
"""Of the text's own tokens when a smaller target is refitted; a draft learns nothing but the target's distributions."""


def sparsify(job: SparsifyJob, on_progress: Callable[[TrainingProgress], None] | None = None) -> SparsifyReport:
    """Remove sub-layers, refit the others and write the result into the job's folder.

    Raises:
        InputError: the budget cannot be met, or the text is too short.
        TrainingError: the training diverged; its last good checkpoint is kept.
    """
    loaded = load_model(job.model, **job.loading)
    model = load_hf_model(replace(loaded, widen=1))
    own_dtype = model.dtype
    model = model.to(fast_precision(own_dtype, loaded.runtime.device))
    spec = ModelSpec.from_config(model.config)
    policy = None if job.policy is None else decode_policy(job.policy)
    recipe = _recipe(job, spec, policy)
    streams = load_streams(loaded.tokenizer, job.text, job.window_tokens, job.seed)
    recipe = replace(recipe, identity=_identity(loaded, streams))
    training = job.output_folder / TRAINING_FOLDER
    weights = read_weights(model, spec)
    begin = partial(_fitted, spec, weights, policy, job, streams) if policy is not None and recipe.narrow else None
    run = Sparsifier(spec, weights, streams, recipe, training, on_progress, begin)
    run.run()
    report = SparsifyReport(
        loaded.name, spec.num_sub_layers, tuple(sorted(run.kept)), job.as_draft, run.qualities, streams.source,
        job.model_dump(mode="json"), {},
    )  # fmt: skip
    if job.as_draft:
        report = _as_draft(job, loaded, run, policy, report)
    else:
        report = _as_target(job, loaded, model.to(own_dtype), run, report)
    write_atomically(job.output_folder / REPORT_NAME, json.dumps(report.to_json(), indent=1) + "\n")
    return report


def _recipe(job: SparsifyJob, spec: ModelSpec, policy: DraftPolicy | None) -> Recipe:
    if policy is not None:
        policy.check(spec.num_blocks, spec.num_kv_heads)
        kept = tuple(sorted(kept_sub_layers(policy)))
        num_kept = len(kept)
    else:
        assert job.keep is not None
        kept, num_kept = None, round(job.keep * spec.num_sub_layers)
    if not num_kept:
        raise InputError(f"nothing of the {spec.num_sub_layers} sub-layers would be kept: keep more")
    return Recipe(
        num_kept,
        kept if num_kept < spec.num_sub_layers else tuple(range(spec.num_sub_layers)),
        job.as_draft,
        job.steps,
        job.learning_rate,
        job.tokens_per_step,
        job.window_tokens,
        job.seed,
        identity="",
        label_weight=0.0 if job.as_draft else _LABEL_WEIGHT,
        bits=job.bits,
        narrow=None if policy is None else _narrow(policy, job),
    )


def _narrow(policy: DraftPolicy, job: SparsifyJob) -> str | None:
    """The policy as a string, where it keeps a part of the neurons of an MLP; `InputError` for other parts."""
    parts = [(index, each) for index, each in enumerate(policy.sub_layers) if each.dropped and not each.is_skipped]
    if not parts:
        return None
    if not job.as_draft:
        raise InputError("a smaller target keeps all of a sub-layer or nothing: keep parts of an MLP in a draft")
    if any(index % 2 == 0 for index, _ in parts):
        raise InputError("a draft that is trained keeps all of an attention's heads or nothing: give it all or `.`")
    return encode_policy(policy.at_bits(job.bits))


def _fitted(
    spec: ModelSpec, weights: TargetWeights, policy: DraftPolicy, job: SparsifyJob, streams: TextStreams
) -> dict[str, Tensor]:
    """What is kept of every sub-layer, fitted in closed form, which says which neurons are worth keeping, too."""
    low = policy.at_bits(min(job.bits, 8)).replace({}, head_bits=FULL_BITS)  # the head is not trained
    windows = streams.windows(_FITTED_TOKENS // job.window_tokens, job.window_tokens, job.seed, 0)
    dtype = weights.embedding.dtype
    return fit_draft(spec, weights, low, windows.to(weights.embedding.device), dtype=dtype)


def _identity(loaded: LoadedModel, streams: TextStreams) -> str:
    """Changes with the target's weights and with the text."""
    digest = hashlib.sha256(loaded.fingerprint["weights"].encode())
    digest.update(streams.training.tobytes())
    digest.update(streams.held_out.tobytes())
    return digest.hexdigest()


def _as_target(
    job: SparsifyJob, loaded: LoadedModel, model: Any, run: Sparsifier, report: SparsifyReport
) -> SparsifyReport:
    folder = job.output_folder
    report = replace(report, files={"checkpoint": str(folder), "report": str(folder / REPORT_NAME)})
    sparse = sparse_model(model, run.kept, run.matrices)
    save_sparse_target(sparse, loaded.tokenizer, report.card(autodraft.__version__), folder)
    return report


def _as_draft(
    job: SparsifyJob, loaded: LoadedModel, run: Sparsifier, policy: DraftPolicy | None, report: SparsifyReport
) -> SparsifyReport:
    folder: Path = job.output_folder
    weights = save_draft_weights(run.matrices, folder / WEIGHTS_NAME, loaded.runtime.dtype)
    if policy is None:
        policy = uniform_policy(run.kept, report.num_sub_layers, job.bits)
    elif job.bits != FULL_BITS:
        policy = policy.at_bits(job.bits)
    profile = write_draft(loaded, policy, weights, folder, job.seed)
    assert profile.predicted is not None
    files = {name: str(folder / name) for name in (PROFILE_NAME, WEIGHTS_NAME, REPORT_NAME)}
    prediction = {"speedup": profile.predicted.speedup, "top1_agreement": profile.priors.drafts[0].alpha}
    return replace(report, files=files, prediction=prediction)
