"""Which searcher explores with how many trials: the staged default, and the plain searchers it is compared with.

Knows nothing of evaluating or storing. A plan is a list of steps; each makes its searcher when it is reached, from
what has been found so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autodraft.cascade import SelfDraft
from autodraft.evaluator import Evaluation
from autodraft.policies import BlockInfluenceSkip, UniformBits
from autodraft.policies.deciders import end_sub_layers
from autodraft.policies.features import PolicyFeatures
from autodraft.policies.rollout import LearnedDecider
from autodraft.policy import FULL_BITS, KEPT_BIT_WIDTHS, SHARE_UNITS, DraftPolicy
from autodraft.search.agents.algorithms import AGENTS
from autodraft.search.agents.searcher import AgentSearcher
from autodraft.search.evolution import EvolutionSearcher
from autodraft.search.knapsack_search import KnapsackSearcher
from autodraft.search.objectives import Objectives
from autodraft.search.proposals import Proposal, Searcher, SequenceSearcher
from autodraft.search.sampled import SAMPLERS, OptunaSearcher
from autodraft.search.space import Params, ProxySpace, RawSpace, narrowed

Found = Sequence[tuple[DraftPolicy, Evaluation]]
SEARCHERS = ("staged", *SAMPLERS, "evolution", "knapsack", *AGENTS)
_SKIP_SHARES = (0.125, 0.25, 0.375, 0.5)
_NARROW_SHARES = (0.25, 0.5, 0.625, 0.75)
"""Of all neurons, dropped where they lose least."""
_KNAPSACK_SEEDS = 6


@dataclass(frozen=True)
class SpaceOptions:
    """What the search may use: protected ends, and channels of an MLP at different bits."""

    protect_ends: bool = False
    channels: bool = False


@dataclass(frozen=True)
class Step:
    """One stage of exploring.

    Attributes:
        stage: its name in the study.
        make: the searcher, from what has been found so far.
        trials: policies at most.
        share: part of the time for exploring after which it ends.
    """

    stage: str
    make: Callable[[Found], Searcher]
    trials: int
    share: float


def exploration(
    searcher: str, features: PolicyFeatures, objectives: Objectives, num_trials: int, seed: int, options: SpaceOptions
) -> list[Step]:
    """The steps of a searcher within `num_trials` policies."""
    if searcher != "staged":
        return [
            Step(
                "explore", lambda found: plain_searcher(searcher, features, objectives, seed, options), num_trials, 1.0
            )
        ]
    seeds = seed_proposals(features, options)
    num_seeds = min(len(seeds), max(num_trials // 2, 1))
    num_sampled = (num_trials - num_seeds) * 3 // 5
    space = proxy_space(features, options)
    points = seed_points(space, features)

    def sampled(found: Found) -> Searcher:
        return OptunaSearcher("tpe", space, objectives, seed, points)

    def mutated(found: Found) -> Searcher:
        return EvolutionSearcher(
            features, objectives, seed, list(found), protected=_protected(features, options), channels=options.channels
        )

    return [
        Step("seeds", lambda found: SequenceSearcher("seeds", seeds), num_seeds, 0.4),
        Step("explore", sampled, num_sampled, 0.75),
        Step("mutate", mutated, num_trials - num_seeds - num_sampled, 1.0),
    ]


def decided(decider: LearnedDecider, features: PolicyFeatures) -> Step:
    """One rollout of a controller, beside the uniform policies within its budget that it has to beat."""
    limit = decider.budgets.max_cost
    uniform = [
        proposal for proposal in uniform_proposals(features) if limit is None or features.cost(proposal.policy) <= limit
    ]
    proposals = [*_proposals([decider.decide(features)], features, "controller"), *uniform]
    return Step("seeds", lambda found: SequenceSearcher("controller", proposals), len(proposals), 1.0)


def refitted_step(drafts: Sequence[SelfDraft], features: PolicyFeatures) -> Step:
    """Refitted drafts as they are, and what they keep at every bit-width that pays here."""
    proposals = []
    for draft in drafts:
        policies = [draft.policy, *(draft.policy.at_bits(bits) for bits in features.available_bits)]
        proposals += [
            Proposal(policy, origin="refitted", weights=draft.weights)
            for policy in dict.fromkeys(policies)
            if _bits_of(policy) <= set(features.available_bits)
        ]
    return Step("refitted", lambda found: SequenceSearcher("refitted", proposals), len(proposals), 0.2)


def _bits_of(policy: DraftPolicy) -> set[int]:
    used = {bits for shares in policy.sub_layers for bits in KEPT_BIT_WIDTHS if shares.units_at(bits)}
    return used | {policy.head_bits}


def plain_searcher(
    name: str, features: PolicyFeatures, objectives: Objectives, seed: int, options: SpaceOptions
) -> Searcher:
    """One searcher from nothing, for comparison. `random` draws bits per sub-layer; samplers use the proxy space."""
    if name == "evolution":
        starts = [(DraftPolicy.uniform(features.num_blocks, bits), None) for bits in features.available_bits]
        return EvolutionSearcher(
            features, objectives, seed, starts, protected=_protected(features, options), channels=options.channels
        )
    if name == "knapsack":
        return KnapsackSearcher(features, protected=_protected(features, options))
    if name in AGENTS:
        return AgentSearcher(name, features, seed, protect_ends=options.protect_ends, channels=options.channels)
    if name == "random":
        return OptunaSearcher(name, RawSpace(features, protect_ends=options.protect_ends), objectives, seed)
    return OptunaSearcher(name, proxy_space(features, options), objectives, seed)


def proxy_space(features: PolicyFeatures, options: SpaceOptions) -> ProxySpace:
    """The default space under these options."""
    return ProxySpace(features, protect_ends=options.protect_ends)


def _protected(features: PolicyFeatures, options: SpaceOptions) -> frozenset[int]:
    return end_sub_layers(features.num_blocks) if options.protect_ends else frozenset()


def uniform_proposals(features: PolicyFeatures) -> list[Proposal]:
    """Keep-all, and every available bit-width for everything; then the same with the target's own head."""
    policies = [UniformBits(bits).decide(features) for bits in features.available_bits]
    policies += [UniformBits(bits, FULL_BITS).decide(features) for bits in features.low_bits]
    return _proposals(policies, features, "uniform bits")


def skip_proposals(features: PolicyFeatures, bits: int, options: SpaceOptions) -> list[Proposal]:
    """Block influence top-k at several k, the rest at `bits`."""
    protected = _protected(features, options)
    room = features.num_sub_layers - len(protected)
    counts = sorted({max(round(share * room), 1) for share in _SKIP_SHARES} | {1, 2} & set(range(room)))
    policies = [BlockInfluenceSkip(count, bits, protected=protected).decide(features) for count in counts]
    return _proposals(policies, features, f"block influence at {bits} bits")


def knapsack_proposals(features: PolicyFeatures, options: SpaceOptions) -> list[Proposal]:
    """Knapsack at evenly spaced time budgets: free, skipping only, bits only."""
    low = tuple(features.available_bits)
    proposals: list[Proposal] = []
    for choices in (None, (0, FULL_BITS), low):
        proposals += KnapsackSearcher(
            features, protected=_protected(features, options), choices=choices, num_coarse=_KNAPSACK_SEEDS
        ).coarse()
    return proposals


def narrow_proposals(features: PolicyFeatures, bits: int) -> list[Proposal]:
    """Everything at `bits` with fewer and fewer neurons, where it is known what those are worth."""
    if not features.narrowing:
        return []
    whole = DraftPolicy.uniform(features.num_blocks, bits)
    counts = [round(share * SHARE_UNITS * features.num_blocks) for share in _NARROW_SHARES]
    return _proposals([narrowed(features, whole, count) for count in counts], features, f"narrow MLPs at {bits} bits")


def seed_proposals(features: PolicyFeatures, options: SpaceOptions) -> list[Proposal]:
    """What the staged search tries first, alternating between kinds so that few trials still see all of them."""
    groups = [uniform_proposals(features), knapsack_proposals(features, options)]
    groups += [narrow_proposals(features, bits) for bits in features.low_bits]
    groups += [skip_proposals(features, bits, options) for bits in features.available_bits]
    mixed = [group[index] for index in range(max(map(len, groups))) for group in groups if index < len(group)]
    unique = {proposal.policy.digest: proposal for proposal in reversed(mixed)}
    return list(unique.values())[::-1]


def seed_points(space: ProxySpace, features: PolicyFeatures) -> list[Params]:
    """Points of the proxy space that the sampler starts from."""
    quarter = features.num_blocks // 4
    points = [space.point(bits=bits) for bits in features.available_bits]
    for bits in features.available_bits:
        points += [
            space.point(skipped=(quarter, quarter // 2), bits=bits),
            space.point(skipped=(quarter, quarter), bits=bits),
        ]
    if features.narrowing:
        half = SHARE_UNITS // 2 * features.num_blocks
        points += [space.point(bits=bits, num_narrowed=half) for bits in features.low_bits]
    return points


def _proposals(policies: Sequence[DraftPolicy], features: PolicyFeatures, origin: str) -> list[Proposal]:
    raw = RawSpace(features)
    return [Proposal(policy, raw.encode(policy), origin) for policy in policies]


def is_skip_only(policy: DraftPolicy) -> bool:
    """Whether everything that is kept runs at the target's precision."""
    return policy.head_bits == FULL_BITS and all(not (shares.eight or shares.four) for shares in policy.sub_layers)


def is_bits_only(policy: DraftPolicy) -> bool:
    """Whether nothing at all is dropped."""
    return not any(shares.dropped for shares in policy.sub_layers)
