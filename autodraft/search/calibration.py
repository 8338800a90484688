"""`Calibrator`: F0 of a target on this device, as much of it as there is time for.

Knows nothing of searchers, studies or cascades.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autodraft.measure.agreement import AgreementMeter
from autodraft.measure.importance import block_influence, narrowing, sensitivity
from autodraft.measure.latency import QUERY_TOKENS, LatencyTable, measure_latency
from autodraft.policies.features import PolicyFeatures
from autodraft.policy import FULL_BITS, SUB_LAYER_KINDS, SubLayerKind
from autodraft.runtime import LoadedModel, TransformerRuntime
from autodraft.runtime.plan import sub_layer_bytes
from autodraft.runtime.quantization import weight_bytes

_PROMPT_TOKENS = 96
_CONTINUATION_TOKENS = 32
_FEWEST_PROMPTS = 4
_MOST_WINDOWS, _FEWEST_WINDOWS = 16, 5
_NARROW_UNITS = (8, 3)
"""Sixteenths of an MLP's neurons whose loss is measured; what others lose lies between."""


@dataclass(frozen=True)
class Calibration:
    """What is known before a candidate is looked at.

    Attributes:
        latency: the latency table.
        features: that, and what sub-layers are worth, in the form that deciders and spaces take.
        meter: what predictions are made with.
    """

    latency: LatencyTable
    features: PolicyFeatures
    meter: AgreementMeter

    def to_json(self) -> dict[str, Any]:
        return {
            "features": self.features.to_json(),
            "latency": self.latency.to_json(),
            "num_prompts": len(self.meter.sequences),
        }


@dataclass(frozen=True)
class Calibrator:
    """Measures F0, or takes it from what was measured before.

    Attributes:
        loaded: the target.
        prompts: token ids.
        bits: bit-widths that drafts may use, where the device runs them faster than the target's own.
        most_tokens: positions for agreement.
        latency_s: seconds for the latency table.
        seed: of its order.
        sensitivity_s: seconds for what single sub-layers lose; None is no limit.
        prediction_s: seconds that a prediction for a draft as slow as the target may take; None is no limit.
        on_step: told of progress (done, total).
    """

    loaded: LoadedModel
    prompts: Sequence[Sequence[int]]
    bits: Sequence[int]
    most_tokens: int
    latency_s: float
    seed: int
    sensitivity_s: float | None = None
    prediction_s: float | None = None
    on_step: Callable[[int, int], None] | None = None

    def measured(self) -> Calibration:
        """Measure everything."""
        runtime = self.loaded.runtime
        latency = measure_latency(runtime, seconds=self.latency_s, seed=self.seed)
        meter = self._meter(self._affordable_prompts(latency))
        bits = tuple(width for width in latency.useful_bits if width == FULL_BITS or width in self.bits)
        changes = (0, *(width for width in bits if width != FULL_BITS))
        passes = (2 * len(changes) + len(_NARROW_UNITS)) * runtime.spec.num_blocks
        windows = self._affordable_windows(latency, passes * meter.window)
        losses = sensitivity(meter, changes, most_windows=windows, on_step=self.on_step)
        narrow = narrowing(meter, _NARROW_UNITS, most_windows=windows, on_step=self.on_step)
        return Calibration(latency, features_of(runtime, latency, bits, block_influence(meter), losses, narrow), meter)

    def restored(self, state: Mapping[str, Any]) -> Calibration:
        """From the JSON of an earlier one, which may not say yet of how many prompts it was."""
        meter = self._meter(state.get("num_prompts", self._most_prompts))
        return Calibration(LatencyTable.from_json(state["latency"]), PolicyFeatures.from_json(state["features"]), meter)

    @property
    def _most_prompts(self) -> int:
        return max(self.most_tokens // _CONTINUATION_TOKENS, 1)

    def _meter(self, num_prompts: int) -> AgreementMeter:
        prompts = [tokens[-_PROMPT_TOKENS:] for tokens in self.prompts[:num_prompts]]
        return AgreementMeter(self.loaded.runtime, prompts, _CONTINUATION_TOKENS, eos=self.loaded.generation_eos)

    def _affordable_prompts(self, latency: LatencyTable) -> int:
        """Prompts of which a prediction can look at all continuations in its time."""
        if self.prediction_s is None:
            return self._most_prompts
        affordable = int(self.prediction_s / (_CONTINUATION_TOKENS * _row_s(latency)))
        return min(max(affordable, _FEWEST_PROMPTS), self._most_prompts)

    def _affordable_windows(self, latency: LatencyTable, rows: int) -> int:
        """Windows of text for which all passes of so many rows for each can be made; on average they are half ones."""
        if self.sensitivity_s is None:
            return _MOST_WINDOWS
        affordable = int(2 * self.sensitivity_s / (rows * _row_s(latency)))
        return min(max(affordable, _FEWEST_WINDOWS), _MOST_WINDOWS)


def _row_s(latency: LatencyTable) -> float:
    """Of the target's passes over many rows."""
    rows = max(QUERY_TOKENS)
    return latency.step_ms("all", FULL_BITS, rows) / 1000 / rows


def features_of(
    runtime: TransformerRuntime,
    latency: LatencyTable,
    bits: tuple[int, ...],
    influence: Sequence[float],
    losses: Mapping[int, Sequence[float]],
    narrow: Mapping[int, Sequence[float]],
) -> PolicyFeatures:
    """What was measured, in the form that deciders and spaces take."""
    sub_layer_ms: dict[tuple[SubLayerKind, int], float] = {
        (kind, width): latency.sub_layer_ms(kind, width) for kind in SUB_LAYER_KINDS for width in bits
    }
    spec, full_bytes = runtime.spec, runtime.full_bytes
    return PolicyFeatures(
        num_blocks=spec.num_blocks,
        num_kv_heads=spec.num_kv_heads,
        available_bits=bits,
        block_influence=tuple(influence),
        sensitivity={width: tuple(values) for width, values in losses.items()},
        sub_layer_ms=sub_layer_ms,
        base_ms={width: latency.base_ms(width) for width in bits},
        target_ms=latency.target_ms,
        sub_layer_bytes={
            (kind, width): sub_layer_bytes(kind, width, spec, full_bytes) for kind in SUB_LAYER_KINDS for width in bits
        },
        head_bytes={width: weight_bytes(spec.vocab_size, spec.hidden_size, width, full_bytes) for width in bits},
        plane_sub_layers=runtime.weights.plane_sub_layers,
        narrowing={units: tuple(values) for units, values in narrow.items()},
    )
