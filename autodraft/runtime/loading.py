"""From a name, folder or hub id to a `LoadedModel`: Hugging Face loads, we take the tensors.

Knows nothing of decoding. Errors of the loading libraries become one line that says what to do.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any

import torch

from autodraft.configuration import resolve_model
from autodraft.errors import InputError, ModelNotFoundError
from autodraft.runtime.backend import Backend
from autodraft.runtime.byte_planes import LARGEST
from autodraft.runtime.hf_weights import read_weights
from autodraft.runtime.linears import linears_for
from autodraft.runtime.native_backend import NativeBackend
from autodraft.runtime.native_build import NativeUnavailableError
from autodraft.runtime.spec import ModelSpec
from autodraft.runtime.torch_backend import TorchBackend
from autodraft.runtime.transformer import TransformerRuntime
from autodraft.runtime.weights import TargetWeights
from autodraft.runtime.widening import widen as widen_model

_logger = logging.getLogger(__name__)
DEFAULT_MAX_LENGTH = 4096
_TEXT_AND_IMAGES = ("gemma3", "mistral3")
"""Families that take images as well; what is run is the part that reads and writes text."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A target ready to run, with its tokenizer and where it came from.

    Attributes:
        name: what was asked for; `path`: the folder or hub id that it resolved to.
        fingerprint: SHA-256 of the configuration and of the (unwidened) weights.
        generation_eos: token ids that end a generation.
    """

    runtime: TransformerRuntime
    tokenizer: Any
    name: str
    path: str
    widen: int
    revision: str | None
    fingerprint: dict[str, str]
    generation_eos: frozenset[int]

    @property
    def byte_planes(self) -> bool:
        """Whether sub-layers are kept in two planes, of which the upper one is what 8 bits mean."""
        return bool(self.runtime.weights.plane_sub_layers)


def load_model(
    name_or_path: str,
    *,
    widen: int = 1,
    dtype: str = "auto",
    device: str = "auto",
    max_length: int | None = None,
    backend: str = "auto",
    revision: str | None = None,
    byte_planes: bool = False,
    coded: bool | None = None,
) -> LoadedModel:
    """Load a configured name, a local folder or a hub id; see `autodraft models` for the names.

    With `byte_planes`, drafts at 8 bits read the upper bytes of the target's own float16 weights. `coded` says whether
    a CPU reads bfloat16 weights in 12 bits each, which changes no result; None: where that is expected to be faster.

    Raises:
        ModelNotFoundError, UnsupportedModelError, InputError: with one line on what to do.
    """
    entry = resolve_model(name_or_path, revision)
    revision = entry.revision
    factor = widen * entry.widen
    place = _device(device)
    config = _from_hub("configuration", "AutoConfig", entry.path_or_id, revision=revision)
    text_config = config.get_text_config() if config.model_type in _TEXT_AND_IMAGES else config
    ModelSpec.from_config(text_config)  # refuse an unsupported architecture before its weights are read
    kind = _dtype(dtype, config, place)
    model = _model_from_hub(entry.path_or_id, revision, kind, config)
    fingerprint = _fingerprint(config, model)
    model = widen_model(model.eval(), factor).to(place)
    runtime = build_runtime(model, max_length=max_length, backend=backend, byte_planes=byte_planes, coded=coded)
    tokenizer = _from_hub("tokenizer", "AutoTokenizer", entry.path_or_id, revision=revision)
    return LoadedModel(runtime, tokenizer, name_or_path, entry.path_or_id, factor, revision, fingerprint, _eos(model))


def build_runtime(
    model: Any,
    *,
    max_length: int | None = None,
    backend: str = "auto",
    byte_planes: bool = False,
    coded: bool | None = None,
) -> TransformerRuntime:
    """A runtime over the weights of a Hugging Face causal LM that is already loaded, in its dtype and on its device.

    Of a model that takes images as well it is the part that reads and writes text.

    With `byte_planes` they are taken out of it: the model itself cannot run any more. `coded`: see `load_model`.
    """
    model = text_model(model)
    spec = ModelSpec.from_config(model.config)
    length = min(spec.max_positions, max_length or DEFAULT_MAX_LENGTH)
    if byte_planes and model.dtype == torch.bfloat16:
        raise InputError(
            "--byte-planes: bfloat16 weights have no upper bytes to draft with; leave it out, or add --dtype float16"
        )
    weights = read_weights(model, spec, byte_planes=byte_planes)
    if byte_planes:
        _check_planes(weights, spec)
    dtype, device = weights.embedding.dtype, weights.embedding.device
    chosen = _backend(backend, spec, weights, dtype, device, length, coded)
    return TransformerRuntime(spec, chosen, dtype=dtype, device=device, max_length=length)


def load_hf_model(loaded: LoadedModel) -> Any:
    """The same (widened) checkpoint as a plain Hugging Face model, for baselines."""
    config = _from_hub("configuration", "AutoConfig", loaded.path, revision=loaded.revision)
    model = _model_from_hub(loaded.path, loaded.revision, loaded.runtime.dtype, config)
    return widen_model(model.eval(), loaded.widen).to(loaded.runtime.device)


def text_model(model: Any) -> Any:
    """The part of a Hugging Face model that reads and writes text, on the same tensors; mostly the model itself."""
    import transformers

    if model.config.model_type not in _TEXT_AND_IMAGES:
        return model
    config = model.config.get_text_config()
    config.dtype = model.dtype
    with torch.device("meta"):
        part = transformers.AutoModelForCausalLM.from_config(config)
    part.model, part.lm_head = model.model.language_model, model.lm_head
    part.generation_config = model.generation_config
    return part.eval()


def _model_from_hub(path: str, revision: str | None, dtype: torch.dtype, config: Any) -> Any:
    is_mixed = config.model_type in _TEXT_AND_IMAGES
    auto_class = "AutoModelForImageTextToText" if is_mixed else "AutoModelForCausalLM"
    return text_model(_from_hub("weights", auto_class, path, revision=revision, dtype=dtype))


def _from_hub(what: str, auto_class: str, path: str, **options: Any) -> Any:
    import transformers
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()  # the bar over tensors in memory; downloads keep theirs
    try:
        return getattr(transformers, auto_class).from_pretrained(path, **options)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(":") if str(error).strip() else type(error).__name__
        hint = "; its tokenizer files must stand beside the weights" if what == "tokenizer" else ""
        raise ModelNotFoundError(f"cannot load the {what} of {path!r}: {reason}{hint}") from error
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _check_planes(weights: TargetWeights, spec: ModelSpec) -> None:
    found, all_sub_layers = len(weights.plane_sub_layers), 2 * spec.num_blocks
    if not found:
        raise InputError(f"--byte-planes: no sub-layer has float16 weights of at most {LARGEST}; leave it out")
    if found < all_sub_layers:
        without = all_sub_layers - found
        _logger.warning("%d of %d sub-layers have weights beyond %s: no byte planes", without, all_sub_layers, LARGEST)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {name}: this machine has no usable CUDA device; use --device cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: no such device; use cpu or cuda") from error


def _dtype(name: str, config: Any, device: torch.device) -> torch.dtype:
    if name != "auto":
        if name not in _DTYPES:
            raise InputError(f"--dtype {name}: unknown; use auto, {', '.join(_DTYPES)}")
        return _DTYPES[name]
    stored: torch.dtype | None = getattr(config, "dtype", None)
    if stored == torch.float16 and device.type == "cpu":
        return torch.float32  # exact; CPUs have no fast half-precision arithmetic
    return stored if stored is not None and stored in _DTYPES.values() else torch.float32


def _backend(
    name: str,
    spec: ModelSpec,
    weights: TargetWeights,
    dtype: torch.dtype,
    device: torch.device,
    max_length: int,
    coded: bool | None,
) -> Backend:
    if name not in ("auto", "native", "torch"):
        raise InputError(f"backend {name!r} is unknown; use auto, native or torch")
    if name == "torch" or device.type != "cpu":
        if name == "native":
            raise InputError("the native backend runs on the CPU; use --backend torch or auto")
        return TorchBackend(spec, weights, dtype, device, linears_for(device))
    try:
        return NativeBackend(spec, weights, dtype, max_length, coded=coded)
    except NativeUnavailableError as error:
        if name == "native":
            raise InputError(f"the native backend is not available: {error}") from error
        _logger.warning("slower PyTorch backend in use: %s", error)
        return TorchBackend(spec, weights, dtype, device, linears_for(device))


def _fingerprint(config: Any, model: Any) -> dict[str, str]:
    """Hashes of what the target computes with: the configuration's architecture and every weight's bytes."""
    settings = {key: value for key, value in config.to_dict().items() if key not in _VOLATILE}
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    canonical = json.dumps(settings, sort_keys=True, default=str)
    return {"config": hashlib.sha256(canonical.encode()).hexdigest(), "weights": digest.hexdigest()}


_VOLATILE = {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache"}


def _eos(model: Any) -> frozenset[int]:
    for source in (model.generation_config, model.config):
        ids = getattr(source, "eos_token_id", None)
        if ids is not None:
            return frozenset([ids] if isinstance(ids, int) else ids)
    return frozenset()
