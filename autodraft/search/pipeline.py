"""`search_cascade`: all stages of a search over any evaluator, from seeds to conclusion.

Knows nothing of models, files or profiles. `run.py` puts a real target behind the evaluator and a profile in front.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from autodraft.cascade import SelfDraft
from autodraft.fitting.closed_form import can_fit
from autodraft.policies.rollout import LearnedDecider
from autodraft.search.compose import ComposeOptions, compose, measure_survivors
from autodraft.search.conclude import CONCLUDE_UNTIL, Conclusion, conclude
from autodraft.search.fitted import Fit, FittedSearcher, neighbours, worth_fitting
from autodraft.search.loop import SearchLoop
from autodraft.search.objectives import Objectives
from autodraft.search.plans import SpaceOptions, decided, exploration, proxy_space, refitted_step
from autodraft.search.space import RawSpace

EXPLORE_UNTIL = 0.32
"""Share of the time after calibration; fitting, measuring and composing follow."""

FIT_UNTIL = 0.41
_MOST_FITS = 10

_UNHURRIED_S = 60.0


@dataclass(frozen=True)
class PipelineOptions:
    """What a search may do.

    Attributes:
        decider: a trained controller; where there is one, its policy is evaluated and nothing is searched.
        refitted: drafts on weights of their own, candidates beside whatever else is found.
        fit: makes weights for the most promising policies; None: they keep the target's.
    """

    searcher: str = "staged"
    num_trials: int = 60
    seed: int = 0
    objectives: Objectives = field(default_factory=Objectives)
    space: SpaceOptions = field(default_factory=SpaceOptions)
    compose: ComposeOptions = field(default_factory=ComposeOptions)
    decider: LearnedDecider | None = None
    refitted: tuple[SelfDraft, ...] = ()
    fit: Fit | None = None


def search_cascade(loop: SearchLoop, options: PipelineOptions) -> Conclusion:
    """Explore on predictions, fit the best, measure the survivors, compose the cascade, compare the finalists."""
    loop.clock.start_shares()
    explore_policies(loop, options)
    fit_policies(loop, options)
    measure_survivors(loop, options.compose)
    compose(loop, options.compose)
    seconds = loop.clock.seconds_until(CONCLUDE_UNTIL)
    return conclude(loop, options.compose, _UNHURRIED_S if seconds is None else max(seconds, 1.0))


def explore_policies(loop: SearchLoop, options: PipelineOptions) -> None:
    """The exploring stages of the chosen searcher."""
    features = loop.evaluator.features
    loop.study.declare(proxy_space(features, options.space).distributions | RawSpace(features).distributions)
    if options.decider is not None:
        steps = [decided(options.decider, features)]
    else:
        steps = exploration(
            options.searcher, features, options.objectives, options.num_trials, options.seed, options.space
        )
    if options.refitted:
        steps = [refitted_step(options.refitted, features), *steps]
    for step in steps:
        found = list(loop.predicted.values())
        loop.explore(step.stage, step.make(found), most=step.trials, until=step.share * EXPLORE_UNTIL)


def fit_policies(loop: SearchLoop, options: PipelineOptions) -> None:
    """The most promising policies once more, on weights that were fitted for them, and some near the best of these."""
    if options.fit is None:
        return
    policies = worth_fitting([pair for pair in loop.predicted.values() if can_fit(pair[0])])

    def seconds_left(done: int) -> float | None:
        return 0.0 if loop.is_over("fit", done, FIT_UNTIL) else loop.clock.seconds_until(FIT_UNTIL)

    searcher = FittedSearcher(policies, options.fit, seconds_left, partial(neighbours, loop.evaluator.features))
    loop.explore("fit", searcher, most=_MOST_FITS, until=FIT_UNTIL)
