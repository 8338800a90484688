"""`EvolutionSearcher`: small mutations of the best policies so far.

Knows nothing of Optuna. Minimal mutation of incumbents is what works in small budgets ("Mutation is all you need",
2107.07343; EvoPress, 2410.14649): a handful of elites, one to three elementary changes, duplicates never asked twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from autodraft.evaluator import Evaluation
from autodraft.policies.features import PolicyFeatures
from autodraft.policy import SHARE_UNITS, ChannelShares, DraftPolicy
from autodraft.search.objectives import Objectives
from autodraft.search.proposals import Proposal, Searcher
from autodraft.search.space import RawSpace, narrower

NUM_ELITES = 6
_MOST_TRIES = 200


class Mutator:
    """Elementary changes of a policy: bits of a sub-layer, a swap, drop or undrop, head bits, an MLP's neurons."""

    def __init__(self, features: PolicyFeatures, seed: int, *, protected: frozenset[int] = frozenset()) -> None:
        self._features = features
        self._protected = protected
        self._random = np.random.default_rng(seed)
        self._levels = (0, *sorted(features.available_bits))
        self._changes: dict[Callable[[DraftPolicy], DraftPolicy], float] = {
            self._change_bits: 0.4,
            self._swap: 0.3,
            self._drop_or_undrop: 0.2,
            self._change_head: 0.1,
        }
        if features.narrowing:
            self._changes[self._change_neurons] = 0.4

    def mutate(self, policy: DraftPolicy) -> DraftPolicy:
        """One to three changes, few more often than many."""
        changes, weights = list(self._changes), np.array(list(self._changes.values()))
        for _ in range(int(self._random.integers(1, 4, size=2).min())):
            policy = changes[int(self._random.choice(len(changes), p=weights / weights.sum()))](policy)
        return policy if policy.num_skipped < len(policy.sub_layers) else self._drop_or_undrop(policy)

    def _pick(self, count: int) -> int:
        return int(self._random.integers(count))

    def _levels_of(self, index: int) -> list[int]:
        return [bits for bits in self._levels if bits or index not in self._protected]

    def _change_bits(self, policy: DraftPolicy) -> DraftPolicy:
        """What is kept of one sub-layer a level up or down; one at several bit-widths has one afterwards."""
        index = self._pick(len(policy.sub_layers))
        levels, shares = self._levels_of(index), policy.sub_layers[index]
        kept = SHARE_UNITS - shares.dropped
        bits = shares.mean_bits * SHARE_UNITS / max(kept, 1)
        nearest = int(np.argmin([abs(level - bits) for level in levels]))
        step = 1 if nearest == 0 or (nearest < len(levels) - 1 and self._random.random() < 0.5) else -1
        chosen = levels[min(max(nearest + step, 0), len(levels) - 1)]
        return policy.replace({index: ChannelShares.of({chosen: kept or SHARE_UNITS} if chosen else {})})

    def _change_neurons(self, policy: DraftPolicy) -> DraftPolicy:
        """One to four sixteenths of an MLP's neurons less or more."""
        index = 2 * self._pick(len(policy.blocks)) + 1
        if policy.sub_layers[index].single_width is None:
            return policy
        units = int(self._random.choice([-4, -2, -1, 1, 2, 4]))
        return policy.replace({index: narrower(policy.sub_layers[index], units)})

    def _swap(self, policy: DraftPolicy) -> DraftPolicy:
        """Two different sub-layers of one kind trade shares: the time stays, the loss changes."""
        flat, kind = policy.sub_layers, self._pick(2)
        for _ in range(8):
            first, second = (2 * self._pick(len(policy.blocks)) + kind for _ in range(2))
            shares = flat[first], flat[second]
            dropped = {index for index, other in ((first, shares[1]), (second, shares[0])) if other.is_skipped}
            if shares[0] != shares[1] and not dropped & self._protected:
                return policy.replace({first: shares[1], second: shares[0]})
        return policy

    def _drop_or_undrop(self, policy: DraftPolicy) -> DraftPolicy:
        """Drop a kept sub-layer, or bring a dropped one back at bits that others of its kind have."""
        index = self._pick(len(policy.sub_layers))
        if not policy.sub_layers[index].is_skipped:
            last = policy.num_skipped == len(policy.sub_layers) - 1
            return policy if last or index in self._protected else policy.replace({index: ChannelShares()})
        kept = [shares for shares in policy.sub_layers[index % 2 :: 2] if not shares.is_skipped]
        shares = kept[self._pick(len(kept))] if kept else ChannelShares.all_at(self._levels[1])
        return policy.replace({index: shares})

    def _change_head(self, policy: DraftPolicy) -> DraftPolicy:
        others = [bits for bits in self._features.available_bits if bits != policy.head_bits]
        return policy.replace({}, head_bits=int(self._random.choice(others))) if others else policy

    def mix_channels(self, policy: DraftPolicy) -> DraftPolicy:
        """Give a sixteenth to a quarter of an MLP's neurons, where all have one bit-width, the next lower one."""
        index = 2 * self._pick(len(policy.blocks)) + 1
        shares = policy.sub_layers[index]
        high, kept = shares.single_width, SHARE_UNITS - shares.dropped
        lower = [bits for bits in self._features.available_bits if high is not None and bits < high]
        units = min(int(self._random.choice([1, 2, 4])), kept - 1)
        if high is None or not lower or not units:
            return policy
        return policy.replace({index: ChannelShares.of({high: kept - units, max(lower): units})})


class EvolutionSearcher(Searcher):
    """Keeps the best candidates it has been told of and asks for unseen mutations of them.

    Args:
        features: of the target.
        objectives: with two of them, parents come from the whole non-dominated front.
        seed: of all draws.
        parents: what to start from; without evaluations they are asked for first.
        protected: sub-layers that are never dropped.
        channels: whether to mix bit-widths within MLPs too.
    """

    name = "evolution"

    def __init__(
        self,
        features: PolicyFeatures,
        objectives: Objectives,
        seed: int,
        parents: Sequence[tuple[DraftPolicy, Evaluation | None]] = (),
        *,
        protected: frozenset[int] = frozenset(),
        channels: bool = False,
    ) -> None:
        self._mutator = Mutator(features, seed, protected=protected)
        self._random = np.random.default_rng([seed, 1])
        self._raw = RawSpace(features)
        self._objectives = objectives
        self._channels = channels
        self._pool = [(policy, evaluation) for policy, evaluation in parents if evaluation is not None]
        self._pending = [policy for policy, evaluation in parents if evaluation is None][::-1]
        if not self._pool and not self._pending:
            self._pending = [DraftPolicy.uniform(features.num_blocks)]
        self._asked = {policy.digest for policy, _ in parents}

    def ask(self) -> Proposal | None:
        if self._pending:
            return self._proposal(self._pending.pop(), "parent")
        for _ in range(_MOST_TRIES):
            parent = self._parent()
            if parent is None:
                return None
            mix = self._channels and self._random.random() < 0.2
            child = self._mutator.mix_channels(parent) if mix else self._mutator.mutate(parent)
            if child.digest not in self._asked:
                self._asked.add(child.digest)
                return self._proposal(child, "mutation")
        return None

    def tell(self, proposal: Proposal, evaluation: Evaluation | None) -> None:
        if evaluation is not None:
            self._pool.append((proposal.policy, evaluation))

    def _proposal(self, policy: DraftPolicy, origin: str) -> Proposal:
        return Proposal(policy, self._raw.encode(policy), origin)

    def _parent(self) -> DraftPolicy | None:
        """An elite, better ones more often: the better of two draws."""
        elites = sorted(self._pool, key=lambda pair: -pair[1].speedup)[:NUM_ELITES]
        if len(self._objectives.names) > 1:
            elites = self._objectives.front(self._pool) or elites
        if not elites:
            return None
        return elites[int(self._random.integers(len(elites), size=2).min())][0]
