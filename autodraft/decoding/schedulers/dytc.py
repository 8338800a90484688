"""`dytc`: the dynamic tree cascade of CAS-Spec (arXiv 2510.26843), with free drafts inside the self-drafts.

Knows nothing of models. A cycle's tree grows greedily. Every choice weighs the expected tokens that it adds against the
time that it takes, at a `rate` of tokens per target step: an action is worth its time if it gains more tokens than
decoding on would commit in that time. The rate is that of recent cycles of the same kind, with or without free drafts
that know how the text goes on: easy text elsewhere does not make a token of hard text cost less time. Models add what
free drafts do not know, so their time has the price of cycles without. Maximising
gain - rate * time, with the rate that results, maximises the ratio of expected tokens to expected time (Dinkelbach
1967); the best ratio of each cycle by itself does not.

1. Free drafts grow a tree from the root, likeliest node first.
2. As long as it pays, the model and the leaf with the most to gain are taken: the model reviews what the free drafts
   proposed there (inner verification) and goes on from other leaves and second choices in the same forward where that
   is nearly free, or drafts on by itself until its own estimate says stop. What it takes to decide and to call a model
   is part of the price: with small models it is as much as a few tokens of a draft.
3. The models' other choices become siblings, free drafts continue the leaves, and of all nodes those are verified
   that are worth their share of the target's forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from autodraft.cascade import DyTC
from autodraft.decoding.acceptance import Calibration, ModelEvidence, MovingAcceptance
from autodraft.decoding.growth import NO_DRAFT, ROOT, Growth
from autodraft.decoding.schedulers.dytc_state import Account, Cycle, Drafted, KnownModel, Step
from autodraft.decoding.schedulers.free_growth import FreeGrowth
from autodraft.decoding.schedulers.frontier import Alternative, Frontier, Place
from autodraft.decoding.schedulers.protocol import TreeScheduler
from autodraft.decoding.step_times import TARGET
from autodraft.decoding.workbench import DraftLevel, Workbench
from autodraft.runtime.choosing import ACCEPTANCE_BINS, Candidates, ChainStop

_PROBE_SHARE = 0.01
_DECISION_SHARE = 0.05  # of a model's time in a chain that may go into deciding whether it goes on
_PROMISING = 0.5  # expected tokens of free drafts from which on a cycle counts as one where they know how to go on
_OTHERS = 0.3  # of the tokens that a first choice leaves to be had, what others are taken to gain at first
_MOST_ROWS = 16  # of a draft's forward
_UNKNOWN_RATE = 1.2  # tokens per target step of free drafts


class DyTCScheduler(TreeScheduler):
    """See the module's text.

    Args:
        settings: of the cascade.
        levels: its drafts.
        rate: tokens per target step to expect of the cascade before anything was measured; None: that of its models.
    """

    def __init__(self, settings: DyTC, levels: Sequence[DraftLevel], rate: float | None = None) -> None:
        self._settings = settings
        free = {draft: level.class_priors for draft, level in enumerate(levels) if not level.is_model}
        self._free = {draft: Calibration(priors) for draft, priors in free.items()}
        self._models = {
            draft: KnownModel(
                MovingAcceptance(level.alpha, settings.ema_weight, settings.window),
                Calibration(ModelEvidence.priors(level.alpha)),
                {source: Calibration(priors) for source, priors in free.items()},
                _OTHERS * (1 - level.alpha),
            )
            for draft, level in enumerate(levels)
            if level.is_model
        }
        self._rate = rate
        self._accounts: tuple[Account, Account] | None = None  # without and with free drafts that know how to go on
        self._cycle: Cycle | None = None

    def calibration(self, draft: int) -> Calibration:
        """Estimated acceptance by class of evidence of a draft's tokens."""
        return self._models[draft].calibration if draft in self._models else self._free[draft]

    def acceptance_by_class(self, draft: int) -> Sequence[float]:
        return self._free[draft].means if draft in self._free else ()

    def grow(self, bench: Workbench) -> None:
        frontier = Frontier(bench.growth)
        free = FreeGrowth(bench, self._free, self._settings.max_depth, self._settings.max_nodes)
        if self._accounts is None:
            alone = self._rate_of_models(bench)
            rate = self._rate or alone
            self._accounts = Account(min(rate, alone)), Account(rate)
        cheapest = min(self._accounts, key=lambda account: account.rate)
        cycle = self._cycle = Cycle(bench, cheapest, self._accounts[0], frontier, free)
        free.grow([ROOT], cycle.node_price())
        cycle.account = self._accounts[sum(bench.growth.reach[1:]) > _PROMISING]
        while (step := self._best_step(cycle)) is not None:
            self._draft(cycle, step)
        if cycle.drafted:
            frontier.add_siblings(cycle.node_price())
            free.grow(range(len(cycle.growth)), cycle.node_price())
        self._prune(cycle)

    def _rate_of_models(self, bench: Workbench) -> float:
        """Tokens per target step of the best chain of a model alone: what a cycle may hope for without free drafts.

        Those lift the rate of the cascade, which as the price of a model's time would stop models far too early.
        """
        best = 1.0 if self._models else self._rate or _UNKNOWN_RATE
        for draft, model in self._models.items():
            tokens = reach = 1.0
            start, each = bench.times.chain_cost(draft)
            for length in range(1, bench.levels[draft].num_draft_tokens + 1):
                reach *= model.alpha.alpha
                tokens += reach
                steps = start + length * each + bench.times.cost(TARGET, length + 1)
                best = max(best, tokens / steps)
        return best

    # ------------------------------------------------------------------ models

    def _best_step(self, cycle: Cycle) -> Step | None:
        """The step that gains most beyond the price of its time; None: verify now."""
        growth, bench = cycle.growth, cycle.bench
        places = cycle.frontier.places() if self._models else []
        if not places:
            return None
        reach, leaf = places[0]
        room = min(self._settings.max_depth, bench.max_depth) - _depth(growth, leaf)
        room = min(room, min(self._settings.max_nodes, bench.max_nodes) - len(growth) + 1)
        if room < 1:
            return None
        covered, node_price = self._covered(cycle, leaf), cycle.node_price()
        best: tuple[float, Step] | None = None
        for draft, model in self._models.items():
            alpha, cost = model.alpha.alpha, self._cost(cycle, draft)
            price = cycle.model_rate * cost + node_price
            once = cycle.once(draft)
            if cycle.last_model not in (draft, NO_DRAFT):
                once += self._catch_up(cycle, draft, leaf)
            most = min(room, bench.levels[draft].num_draft_tokens)
            length = max(self._best_length(cycle, model, cost, reach, most), 1)
            beside, bonus = self._beside(cycle, draft, places, node_price)
            proposed = self._worth_reviewing(cycle, draft, ROOT) if covered else None
            step = Step(draft, leaf, length, beside, proposed)
            if self._is_probed(cycle, draft, leaf):
                return step
            gain = reach * model.gain * (1 - alpha**length) / (1 - alpha) + bonus - length * price
            if proposed is not None:
                gain = max(gain, self._gain_of_review(cycle, draft, proposed) - node_price)
            value = gain - covered - cycle.model_rate * once
            if value > 0 and (best is None or value > best[0]):
                best = value, step
        return best[1] if best is not None else None

    def _beside(
        self, cycle: Cycle, draft: int, places: Sequence[tuple[float, Place]], node_price: float
    ) -> tuple[list[Place], float]:
        """Of all places but the first, those from which the model may go on too in the same forward.

        And what that gains beyond its price.
        """
        growth, times, gain = cycle.growth, cycle.bench.times, self._models[draft].gain
        taken: list[Place] = []
        bonus, max_depth = 0.0, min(self._settings.max_depth, cycle.bench.max_depth)
        # The draft's rows, ancestors included, are nodes of the tree: there must be room for all of them.
        most = min(_MOST_ROWS, self._settings.max_nodes - len(growth) + 1) - 1
        if len(growth) + _MOST_ROWS > cycle.bench.max_nodes:
            most = 0
        for reach, place in islice(places, 1, None):
            rows = 1 + len(taken)
            more = cycle.model_rate * max(times.cost(draft, rows + 1) - times.cost(draft, rows), 0.0) + node_price
            if rows > most or reach * gain <= more:
                break
            if _depth(growth, place) < max_depth:
                taken.append(place)
                bonus += reach * gain - more
        return taken, bonus

    def _best_length(self, cycle: Cycle, model: KnownModel, cost: float, reach: float, most: int) -> int:
        """The longest chain of a draft whose last token gains more than the time that it takes."""
        times, rows, rate = cycle.bench.times, len(cycle.growth), cycle.model_rate
        gain, alpha, length = model.gain, model.alpha.alpha, 0
        while length < most:
            if reach * gain <= rate * (cost + times.marginal_cost(rows + length)):
                break
            reach *= alpha
            length += 1
        return length

    def _gain_of_review(self, cycle: Cycle, draft: int, proposed: Sequence[int]) -> float:
        """Expected tokens beyond the forward's price if a model reviews what free drafts have proposed at the root."""
        growth, model, alpha = cycle.growth, self._models[draft], self._models[draft].alpha.alpha
        tokens, reach = 0.0, alpha
        for node in proposed:
            tokens += reach
            reach *= model.agreement[growth.drafts[node]].means[growth.evidence[node]] * alpha
        return tokens + reach - cycle.model_rate * cycle.review_cost(draft, len(proposed))

    def _covered(self, cycle: Cycle, leaf: Place) -> float:
        """Expected tokens beyond `leaf` that free drafts have in the tree already."""
        if leaf != ROOT:
            return 0.0
        growth = cycle.growth
        covered = sum(growth.reach[1:])
        verify = cycle.bench.times.cost(TARGET, len(growth)) - cycle.bench.times.cost(TARGET, 1)
        return max(covered - cycle.rate * verify, 0.0)

    def _cost(self, cycle: Cycle, draft: int) -> float:
        """Target steps per token of a model's chain, with what inner verification has saved of late."""
        return self._models[draft].cost_per_token or cycle.bench.times.chain_cost(draft)[1]

    def _catch_up(self, cycle: Cycle, draft: int, leaf: Place) -> float:
        """Target steps in which a model that did not draft last runs what leads to a place."""
        times, rows = cycle.bench.times, _depth(cycle.growth, leaf) + 1
        return times.cost(draft, rows) - times.cost(draft, 1)

    def _is_probed(self, cycle: Cycle, draft: int, leaf: Place) -> bool:
        """Whether a model that has not drafted for long is tried again, at `_PROBE_SHARE` of the time at most."""
        if leaf != ROOT or cycle.drafted:
            return False
        cost = cycle.bench.times.cost(draft, 1) + cycle.node_price() / cycle.rate
        return self._models[draft].idle * _PROBE_SHARE > cost

    def _draft(self, cycle: Cycle, step: Step) -> None:
        """Let a model go on, by reviewing what is proposed there or by itself."""
        bench, draft, siblings = cycle.bench, step.draft, self._settings.siblings
        done = cycle.drafted.setdefault(draft, Drafted())
        cycle.last_model = draft
        leaf = cycle.frontier.take(step.leaf)
        proposed = self._worth_reviewing(cycle, draft, leaf) if step.proposed is None else step.proposed
        beside = [cycle.frontier.take(place) for place in step.beside]
        together = [leaf, *proposed, *beside]
        cycle.reviewed.update(together)
        if len(together) > 1:
            found = bench.review(draft, together, siblings)
            done.steps += cycle.review_cost(draft, len(proposed))
            done.tokens += self._place_path(cycle, draft, together[: 1 + len(proposed)], found)
            for node, candidates in zip(beside, found[1 + len(proposed) :], strict=True):
                cycle.frontier.leaves.append(self._place(cycle, draft, node, candidates))
        else:
            found = self._chain(cycle, step, leaf)
            done.steps += len(found) * bench.times.chain_cost(draft)[1]
            done.tokens += len(found)
            node = leaf
            for candidates in found:
                node = self._place(cycle, draft, node, candidates)
            cycle.frontier.leaves.append(node)

    def _place_path(self, cycle: Cycle, draft: int, path: Sequence[int], found: Sequence[Candidates]) -> int:
        """Add what a model chose after each node of a path that it reviewed; tokens that come of its own choices.

        Where it chose another token than the next one of the path, that one counts as far as it was a good choice too.
        """
        drafted, agreed = 0, True
        for number, (node, candidates) in enumerate(zip(path, found, strict=False)):
            if number and cycle.growth.reach[node] <= cycle.node_price():
                break
            drafted += agreed
            chosen = self._place(cycle, draft, node, candidates)
            if number + 1 == len(path) or chosen != path[number + 1]:
                agreed = False
                cycle.frontier.leaves.append(chosen)
        return drafted

    def _place(self, cycle: Cycle, draft: int, parent: int, candidates: Candidates) -> int:
        """Add a model's choice after `parent`, remember the others, and judge free drafts' tokens there anew."""
        growth, model = cycle.growth, self._models[draft]
        means, token, prob = model.calibration.means, candidates.tokens[0], candidates.probs[0]
        others = dict(zip(candidates.tokens[1:], candidates.probs[1:], strict=True))
        chosen_evidence = ModelEvidence.first(prob)
        for node in growth.children(parent):
            proposed_by, is_chosen = growth.drafts[node], growth.tokens[node] == token
            if proposed_by in self._free:
                model.agreement[proposed_by].update(growth.evidence[node], is_chosen)
            if is_chosen:
                if proposed_by in self._free:
                    chosen_evidence = ModelEvidence.agreed(prob)
                continue
            other = others.pop(growth.tokens[node], None)
            if proposed_by not in self._free:
                evidence = ModelEvidence.NOT_CHOSEN if other is None else ModelEvidence.other(other)
                growth.estimate(node, draft, means[evidence], evidence)
            if other is not None and node not in cycle.reviewed:
                cycle.frontier.leaves.append(node)
        cycle.free.overrule(parent)
        chosen = growth.add(parent, token, draft)
        growth.estimate(chosen, draft, means[chosen_evidence], chosen_evidence)
        price, gained, reach = cycle.node_price(), 0.0, growth.reach[parent]
        for other, prob in others.items():
            evidence = ModelEvidence.other(prob)
            gained += max(reach * means[evidence] - price, 0.0)
            cycle.frontier.alternatives.append(Alternative(parent, other, draft, means[evidence], evidence))
        drafted = cycle.drafted[draft]
        drafted.reach += reach
        drafted.others += gained
        return chosen

    def _chain(self, cycle: Cycle, step: Step, leaf: int) -> list[Candidates]:
        """What a model drafts by itself until its own estimate says stop."""
        bench, model = cycle.bench, self._models[step.draft]
        price = cycle.model_rate * self._cost(cycle, step.draft) + cycle.node_price()
        stop = ChainStop(
            bench.levels[step.draft].stop_threshold,
            model.calibration.means[:ACCEPTANCE_BINS],
            cycle.growth.reach[leaf],
            price / model.gain,
        )
        # Free drafts and the other places get a chance every few tokens, and no more often than deciding is cheap.
        worth = cycle.once(step.draft) / (_DECISION_SHARE * self._cost(cycle, step.draft))
        most = min(step.most, max(round(worth), 1))
        return bench.chain(step.draft, leaf, most, self._settings.siblings, stop)

    def _worth_reviewing(self, cycle: Cycle, draft: int, leaf: int) -> list[int]:
        """The free drafts' chain after `leaf`, as far as a review is expected to save more steps than it costs."""
        growth, times, model = cycle.growth, cycle.bench.times, self._models[draft]
        if not self._free:
            return []
        chain = cycle.free.chain(leaf)
        agreed, saved = 1.0, 0.0
        _, each = times.chain_cost(draft)
        once = cycle.once(draft)  # a chain would go on by itself, after a review the model is called again
        best, best_length = 0.0, 0
        for length, node in enumerate(chain, start=1):
            agreed *= model.agreement[growth.drafts[node]].means[growth.evidence[node]]
            saved += agreed * each
            value = saved - (cycle.review_cost(draft, length) - each) - once
            if value > best:
                best, best_length = value, length
        return chain[:best_length]

    # ------------------------------------------------------------------ the end of a cycle

    def _prune(self, cycle: Cycle) -> None:
        """Keep the likeliest nodes, as many as gain most beyond the price of verifying them."""
        growth, times = cycle.growth, cycle.bench.times
        growth.refresh()
        most = min(self._settings.max_nodes, cycle.bench.max_nodes)
        order = sorted(range(1, len(growth)), key=lambda node: -growth.reach[node])
        gained, best, best_count = 0.0, -cycle.rate * times.cost(TARGET, 1), 0
        for count, node in enumerate(order[:most], start=1):
            gained += growth.reach[node]
            value = gained - cycle.rate * times.cost(TARGET, count + 1)
            if value > best:
                best, best_count = value, count
        growth.keep_only(order[:best_count])

    def observe(self, bench: Workbench, accepted: Sequence[int], steps: float) -> None:
        first_choices: dict[int, list[bool]] = {}
        for node, was_accepted in bench.growth.outcomes(accepted):
            draft, evidence = bench.growth.drafts[node], bench.growth.evidence[node]
            self.calibration(draft).update(evidence, was_accepted)
            if draft in self._models and ModelEvidence.is_first(evidence):
                first_choices.setdefault(draft, []).append(was_accepted)
        drafted = self._cycle.drafted if self._cycle is not None else {}
        for draft, model in self._models.items():
            model.observe(first_choices.get(draft, []), drafted.get(draft))
        # Where `grow` was not asked there was nothing to decide and there is nothing to learn for deciding.
        if self._cycle is not None:
            self._cycle.account.add(len(accepted), steps)
        self._cycle = None


def _depth(growth: Growth, place: Place) -> int:
    """Distance from the root to the node that a place is or would be."""
    return growth.depths[place] if isinstance(place, int) else growth.depths[place.node] + 1
