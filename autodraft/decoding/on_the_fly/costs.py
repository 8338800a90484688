"""`OnlineCosts`: what a step of a policy costs, before it was ever run and after.

Knows nothing of acceptance. A step reads the weights that its policy keeps and the keys of the attention that it keeps;
those bytes over the target's are the first guess of its cost. Times of drafted chains then correct the guess for all
policies, and replace it for the policy that was timed.
"""

from __future__ import annotations

from autodraft.decoding.step_times import TARGET, CostPrior, StepTimes
from autodraft.policy import SUB_LAYER_KINDS, ChannelShares, DraftPolicy, SubLayerKind
from autodraft.runtime import DraftPlan, TransformerRuntime

_RISE, _FALL = 0.05, 0.4
_LARGEST_CORRECTION = 3.0
_VERIFY_PRIOR = CostPrior(1.0, {1: 1.0, 32: 4.0})


class OnlineCosts:
    """Costs in target steps, from times noted while decoding.

    Args:
        runtime: the target, for the sizes of its weights and keys.
    """

    def __init__(self, runtime: TransformerRuntime) -> None:
        self._spec = runtime.spec
        self._weight_bytes, self._key_bytes = runtime.full_bytes, runtime.dtype.itemsize
        self._times = StepTimes(_VERIFY_PRIOR, [])
        self._target = DraftPolicy.uniform(runtime.spec.num_blocks)
        self._step_s: dict[str, float] = {}  # measured, by digest
        self._sizes: dict[str, tuple[int, int]] = {}  # bytes of weights, blocks that attend; by digest
        self._correction = 1.0  # measured cost over the guess from bytes
        self._length = 0
        self._rows_timed: set[int] = set()

    def set_context(self, length: int) -> None:
        """The context has this many tokens now."""
        self._length = length
        self._times.set_context(length)

    def note_verify(self, rows: int, seconds: float, steps: int = 1) -> None:
        """The target took so long for one forward over `rows` tokens, on average over `steps` of them."""
        self._times.record(TARGET, rows, seconds, steps)
        self._rows_timed.add(rows)

    def note_chain(self, policy: DraftPolicy, steps: int, seconds: float) -> None:
        """A draft took so long for a chain of `steps` tokens."""
        step_s, target_s = seconds / steps, self.target_s
        known = self._step_s.get(policy.digest, self.cost(policy) * target_s or step_s)
        known = self._step_s[policy.digest] = _blend(known, step_s)
        if target_s:
            correction = known / target_s / self._share_of_bytes(policy)
            self._correction = min(max(correction, 1 / _LARGEST_CORRECTION), _LARGEST_CORRECTION)

    def cost(self, policy: DraftPolicy) -> float:
        """c: one draft step, in target steps."""
        if policy.digest in self._step_s and self.target_s:
            return self._step_s[policy.digest] / self.target_s
        return self._share_of_bytes(policy) * self._correction

    def verify_cost(self, rows: int) -> float:
        """v: the target's forward over `rows` tokens, in target steps."""
        return max(self._times.cost(TARGET, rows) / self._fastest, 1.0)

    @property
    def target_s(self) -> float:
        """Seconds of a target step; 0 until a forward of the target was timed."""
        return self._times.target_s * self._fastest

    @property
    def _fastest(self) -> float:
        """The fastest forward of the target over the one that is taken for a step.

        While a draft is at work single steps are rare and their time gets old; but no step is slower than a forward
        over more tokens.
        """
        return min((self._times.cost(TARGET, rows) for rows in self._rows_timed), default=1.0)

    def expected_s(self, rows: int) -> float:
        """Seconds that a forward over `rows` tokens may take; 0 until one of the target was timed."""
        return self.verify_cost(rows) * self.target_s

    def sub_layer_weight(self, kind: SubLayerKind, bits: int) -> float:
        """The part of a target step that one sub-layer at `bits` reads."""
        if not bits:
            return 0.0
        kept = DraftPolicy.uniform(self._spec.num_blocks, bits)
        without = kept.replace({SUB_LAYER_KINDS.index(kind): ChannelShares.all_at(0)})
        return (self._step_bytes(kept) - self._step_bytes(without)) / self._step_bytes(self._target)

    def _share_of_bytes(self, policy: DraftPolicy) -> float:
        return self._step_bytes(policy) / self._step_bytes(self._target)

    def _step_bytes(self, policy: DraftPolicy) -> int:
        """Weights that a step reads, and keys and values of the context in the blocks that attend."""
        spec = self._spec
        sizes = self._sizes.get(policy.digest)
        if sizes is None:
            weight_bytes = DraftPlan(policy, spec, self._weight_bytes, None).weight_bytes
            attending = sum(not block.attention.is_skipped for block in policy.blocks)
            sizes = self._sizes[policy.digest] = (weight_bytes, attending)
        return sizes[0] + sizes[1] * 2 * self._length * spec.num_kv_heads * spec.head_dim * self._key_bytes


def _blend(known: float, seen: float) -> float:
    """An average that falls faster than it rises: what disturbs a measurement only ever makes it longer."""
    return known + (_FALL if seen < known else _RISE) * (min(seen, 2 * known) - known)
