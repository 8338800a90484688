"""A planted world with a known answer, for tests of searchers, studies and environments.

Knows nothing of real models. Sub-layers have planted losses, pairs of neighbours interact (so that loss is not
additive and the proxies are imperfect), and speedup follows the analytic formula. Small worlds can be solved by
brute force.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from autodraft.cascade import Cascade, PromptLookup, RoutedDraft, SelfDraft
from autodraft.evaluator import Evaluation, Rival, TrialFailed
from autodraft.measure.formulas import best_num_draft_tokens, chain_speedup, tokens_per_cycle
from autodraft.measure.statistics import is_worse
from autodraft.policies.features import PolicyFeatures
from autodraft.policy import DraftPolicy, SubLayerKind
from autodraft.profile_parts import WeightsFile

_SUB_LAYER_MS: dict[tuple[SubLayerKind, int], float] = {
    ("attention", 16): 1.0, ("attention", 8): 0.55, ("attention", 4): 0.40,
    ("mlp", 16): 2.0, ("mlp", 8): 1.0, ("mlp", 4): 0.60,
}  # fmt: skip
_BASE_MS = {16: 1.5, 8: 0.9, 4: 0.7}
_BITS_LOSS = {16: 0.0, 8: 0.02, 4: 0.15}
_HEAD_LOSS = {16: 0.0, 8: 0.002, 4: 0.02}
_REFITTED_LOSS = 0.3
"""Loss of a policy on refitted weights, over that on the target's."""
_ROUTED_ALPHA, _ROUTED_COST = 0.8, 0.5


class PlantedEvaluator:
    """An `Evaluator` whose optimum is known.

    Args:
        num_blocks: blocks of the imaginary target.
        seed: of the planted losses.
        proxy_noise: sigma of the log-normal error of the proxies.
        timing_noise: relative sigma of each measured prompt.
        drift: sigma of the log-normal factor that all speedups of one measurement share: what the machine was doing.
        best_possible: scales alpha; low values make speculation a loss.
        failing: digests of policies that do not fit into memory.
        num_prompts: prompts of a measurement.
        hub: loss of skipping an MLP in the middle together with any of the attentions around it. Each of them is
            dispensable, the MLP most of all, so whoever begins with the best single skip cannot have the best of all.
    """

    def __init__(
        self,
        num_blocks: int = 4,
        seed: int = 0,
        *,
        proxy_noise: float = 0.3,
        timing_noise: float = 0.01,
        drift: float = 0.0,
        best_possible: float = 0.97,
        failing: frozenset[str] = frozenset(),
        num_prompts: int = 12,
        hub: float = 0.0,
    ) -> None:
        random = np.random.default_rng(seed)
        ends = np.abs(np.linspace(-1, 1, 2 * num_blocks)) ** 3
        self._drop = 0.03 + 0.5 * ends + random.exponential(0.06, 2 * num_blocks)
        self._pair = random.exponential(0.06, 2 * num_blocks)
        self._both = np.zeros((2 * num_blocks, 2 * num_blocks))
        if hub:
            middle, around = 2 * (num_blocks // 2) + 1, np.arange(2, 2 * num_blocks, 2)
            self._drop[around], self._pair[:] = random.uniform(0.02, 0.04, len(around)), 0.0
            self._drop[middle] = 0.01
            self._both[middle, around] = self._both[around, middle] = hub / 2
        noise = random.lognormal(0.0, proxy_noise, (3, 2 * num_blocks))
        self._features = PolicyFeatures(
            num_blocks=num_blocks,
            num_kv_heads=4,
            available_bits=(16, 8, 4),
            block_influence=tuple((self._drop * noise[0]).tolist()),
            sensitivity={
                bits: tuple((self._loss_at(bits) * noise[row]).tolist()) for row, bits in enumerate((0, 8, 4))
            },
            sub_layer_ms=_SUB_LAYER_MS,
            base_ms=_BASE_MS,
            target_ms=_BASE_MS[16] + num_blocks * (_SUB_LAYER_MS["attention", 16] + _SUB_LAYER_MS["mlp", 16]),
            sub_layer_bytes={(kind, bits): 50 * bits * (1 + (kind == "mlp")) for kind, bits in _SUB_LAYER_MS},
            head_bytes={bits: 50 * bits for bits in _BASE_MS},
        )
        self._settings = {"seed": str(seed), "blocks": str(num_blocks), "hub": str(hub)}
        self._noise = np.random.default_rng([seed, 1])
        self._timing_noise, self._drift, self._best_possible = timing_noise, drift, best_possible
        self._failing, self._num_prompts = failing, num_prompts
        self.predictions = 0
        self.measurements = 0

    def _loss_at(self, bits: int) -> np.ndarray:
        return self._drop * (1.0 if bits == 0 else _BITS_LOSS[bits])

    @property
    def identity(self) -> Mapping[str, str]:
        return self._settings

    @property
    def features(self) -> PolicyFeatures:
        return self._features

    def calibrate(self, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return {"features": self._features.to_json()}

    def alpha(self, policy: DraftPolicy, weights: WeightsFile | None = None) -> float:
        """Planted acceptance: losses add up, neighbours that are both skipped cost extra, the hub does others' work."""
        skipped = [shares.is_skipped for shares in policy.sub_layers]
        loss = _HEAD_LOSS[policy.head_bits]
        for index, shares in enumerate(policy.sub_layers):
            gone = shares.dropped / 16
            loss += self._drop[index] * (gone + (shares.eight * _BITS_LOSS[8] + shares.four * _BITS_LOSS[4]) / 16)
            if index and skipped[index] and skipped[index - 1]:
                loss += self._pair[index]
        loss += float(self._both[np.ix_(skipped, skipped)].sum())
        return self._best_possible * math.exp(-loss * (1.0 if weights is None else _REFITTED_LOSS))

    def verify_cost(self, rows: int) -> float:
        return 1.0 + 0.01 * (rows - 1)

    def predict(self, policy: DraftPolicy, weights: WeightsFile | None = None) -> Evaluation:
        self.predictions += 1
        if policy.digest in self._failing:
            raise TrialFailed("out of memory: planted")
        alpha, cost = self.alpha(policy, weights), self._features.cost(policy)
        length, speedup = best_num_draft_tokens(lambda n: tokens_per_cycle(alpha, n), cost, self.verify_cost, 8)
        return Evaluation(
            "predicted", speedup, tokens_per_cycle(alpha, length), length, cost, self.verify_cost(length + 1),
            extra_bytes=self._features.extra_bytes(policy), wall_s=0.0, top1_agreement=alpha,
        )  # fmt: skip

    def true_speedup(self, cascade: Cascade) -> float:
        """What measuring would give without noise: each lookup in front adds 5 %."""
        factor = 1.0
        for draft in cascade.drafts:
            if isinstance(draft, SelfDraft):
                n, cost = draft.num_draft_tokens, self._features.cost(draft.policy)
                return factor * chain_speedup(self.alpha(draft.policy, draft.weights), n, cost, self.verify_cost(n + 1))
            if isinstance(draft, RoutedDraft):
                n = draft.num_draft_tokens
                return factor * chain_speedup(_ROUTED_ALPHA, n, _ROUTED_COST, self.verify_cost(n + 1))
            factor *= 1.05 if isinstance(draft, PromptLookup) else 1.0
        return factor

    def measure(self, cascade: Cascade, rival: Rival | None = None) -> Evaluation:
        self.measurements += 1
        moment = float(self._noise.lognormal(0.0, self._drift))
        true = moment * self.true_speedup(cascade)
        beside = None if rival is None else moment * self.true_speedup(rival.cascade)
        scores: list[float] = []
        rivals: list[float] = []
        while len(scores) < self._num_prompts and not is_worse(scores, rivals):
            scores.append(self._timed(true))
            if beside is not None:
                rivals.append(self._timed(beside))
        mean = float(np.mean(scores))
        standing = None if rival is None else rival.standing * mean / float(np.mean(rivals))
        error = 2.0 * max(self._timing_noise, 1e-6) / math.sqrt(len(scores)) * mean
        return Evaluation(
            "measured", mean, max(mean, 1.0), 1.0, 0.1, 1.0, extra_bytes=0, wall_s=0.0, alpha=0.5,
            ci_low=mean - error, ci_high=mean + error, per_prompt=tuple(scores),
            stopped_early=len(scores) < self._num_prompts, standing=standing,
        )  # fmt: skip

    def _timed(self, speedup: float) -> float:
        return speedup * float(self._noise.normal(1.0, self._timing_noise))

    def compare(self, cascades: Mapping[str, Cascade], seconds: float) -> dict[str, Evaluation]:
        return {name: self.measure(cascade) for name, cascade in cascades.items()}

    def optimum(self) -> float:
        """The highest predicted speedup of any policy without mixed shares, by brute force: only for small worlds."""
        features, widths = self._features, (0, 4, 8, 16)
        choices = np.array(list(itertools.product(range(len(widths)), repeat=features.num_sub_layers))[1:])
        losses = np.array([[self._drop[i] * ratio for ratio in (1.0, *(_BITS_LOSS[b] for b in widths[1:]))]
                           for i in range(features.num_sub_layers)])  # fmt: skip
        times = np.array([[features.ms(i, bits) for bits in widths] for i in range(features.num_sub_layers)])
        columns = np.arange(features.num_sub_layers)
        skipped = choices == 0
        loss = losses[columns, choices].sum(1) + ((skipped[:, 1:] & skipped[:, :-1]) * self._pair[1:]).sum(1)
        loss += ((skipped @ self._both) * skipped).sum(1)
        best = 0.0
        for head in features.available_bits:
            alpha = self._best_possible * np.exp(-loss - _HEAD_LOSS[head])
            cost = (times[columns, choices].sum(1) + features.base_ms[head]) / features.target_ms
            for n in range(1, 9):
                tau = sum(alpha**i for i in range(n + 1))
                best = max(best, float((tau / (n * cost + self.verify_cost(n + 1))).max()))
        return best
