"""The plain values of a training run: model shape, budgets, rates.

Knows nothing about torch, files or clocks; every other module of this package reads these types.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelShape:
    """The architecture of the reference model, in Hugging Face's LlamaConfig terms."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 640
    num_blocks: int = 16
    num_heads: int = 8
    num_kv_heads: int = 4
    max_positions: int = 1024
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or self.num_heads % self.num_kv_heads:
            raise ValueError("hidden_size must divide by num_heads, and num_heads by num_kv_heads")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def num_sublayers(self) -> int:
        """Attention and MLP of every block, in order: sub-layer 2i is block i's attention."""
        return 2 * self.num_blocks


@dataclass(frozen=True)
class Phase:
    """From `start` (share of the budget spent) on, window lengths are drawn with these weights."""

    start: float
    weights: dict[int, float]


DEFAULT_PHASES = (
    Phase(0.0, {256: 0.9, 512: 0.1}),
    Phase(0.35, {256: 0.4, 512: 0.6}),
    Phase(0.75, {256: 0.1, 512: 0.6, 1024: 0.3}),
)


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The budget is `minutes` of accumulated time, or `tokens` where given."""

    shape: ModelShape = field(default_factory=ModelShape)
    minutes: float = 60.0
    tokens: int | None = None
    tokens_per_step: int = 2048
    phases: tuple[Phase, ...] = DEFAULT_PHASES
    edit_share: float = 0.12
    layer_dropout: float = 0.0
    matrix_lr: float = 0.02
    matrix_weight_decay: float = 0.05
    other_lr: float = 3e-3
    warmup_share: float = 0.02
    final_lr_share: float = 0.05
    grad_clip: float = 1.0
    compile: bool = False
    checkpoint_every_s: float = 120.0
    evaluate_every_s: float = 120.0
    eval_windows: int = 16
    eval_length: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.layer_dropout < 1.0:
            raise ValueError("layer_dropout must be in [0, 1)")
        longest = max(length for phase in self.phases for length in phase.weights)
        if longest > self.shape.max_positions:
            raise ValueError(f"windows of {longest} tokens exceed max_positions {self.shape.max_positions}")
        if any(self.tokens_per_step % length for phase in self.phases for length in phase.weights):
            raise ValueError("tokens_per_step must be a multiple of every window length")

    def recipe(self) -> dict[str, Any]:
        """Everything that decides the result, as JSON-ready data for the training summary."""
        return asdict(self)

    @staticmethod
    def from_recipe(recipe: dict[str, Any]) -> TrainConfig:
        """The configuration that `recipe()` was called on."""
        shape, phases = ModelShape(**recipe["shape"]), tuple(Phase(**phase) for phase in recipe["phases"])
        return TrainConfig(**{**recipe, "shape": shape, "phases": phases})
