"""`OptunaSearcher`: Optuna's samplers over one search space.

Knows nothing of the study that is stored. Each searcher drives its sampler with an in-memory study that holds
only its own trials, because Optuna's relational samplers look at the intersection of the parameters of *all* trials
of a study, and one stored study holds trials of several spaces. Samplers are pinned with their arguments (the
defaults changed in Optuna 5).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from autodraft.evaluator import Evaluation
from autodraft.search.objectives import Objectives
from autodraft.search.proposals import Proposal, Searcher
from autodraft.search.space import Params, SearchSpace

SAMPLERS = ("random", "tpe", "gp", "cmaes", "nsga2")


def make_sampler(name: str, seed: int, num_objectives: int = 1) -> tuple[BaseSampler, dict[str, Any]]:
    """A pinned sampler, and its arguments for the record."""
    arguments: dict[str, Any] = {"seed": seed}
    if name == "random":
        return RandomSampler(**arguments), arguments
    if name == "tpe":
        arguments |= {"n_startup_trials": 8, "multivariate": num_objectives == 1, "constant_liar": False}
        return TPESampler(**arguments), arguments
    if name == "gp":
        arguments |= {"n_startup_trials": 8, "deterministic_objective": True}
        return _without_warnings(GPSampler, arguments), arguments
    if name == "cmaes":
        arguments |= {"with_margin": True, "n_startup_trials": 1, "warn_independent_sampling": False}
        return _without_warnings(CmaEsSampler, arguments), arguments
    if name == "nsga2":
        arguments |= {"population_size": 12}
        return NSGAIISampler(**arguments), arguments
    raise ValueError(f"no sampler {name!r}; choose one of {', '.join(SAMPLERS)}")


def _without_warnings(sampler: type[BaseSampler], arguments: dict[str, Any]) -> BaseSampler:
    """Some arguments that we pin are still marked experimental; we know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return sampler(**arguments)


class OptunaSearcher(Searcher):
    """Asks one of Optuna's samplers for points of a search space.

    Args:
        sampler: one of `SAMPLERS`.
        space: where to search.
        objectives: what to optimise.
        seed: of the sampler.
        seeds: points that are asked for first.
    """

    def __init__(
        self, sampler: str, space: SearchSpace, objectives: Objectives, seed: int, seeds: Sequence[Params] = ()
    ) -> None:
        self.name = sampler
        self._space = space
        self._objectives = objectives
        chosen, self.arguments = make_sampler(sampler, seed, len(objectives.names))
        self._study = optuna.create_study(
            storage=optuna.storages.InMemoryStorage(), sampler=chosen, directions=objectives.directions
        )
        for params in seeds:
            self._study.enqueue_trial(dict(params), skip_if_exists=True)

    def ask(self) -> Proposal:
        trial = self._study.ask()
        params = {
            name: trial.suggest_int(name, distribution.low, distribution.high)
            for name, distribution in self._space.distributions.items()
        }
        return Proposal(self._space.decode(params), params, self.name, trial.number)

    def tell(self, proposal: Proposal, evaluation: Evaluation | None) -> None:
        if evaluation is None:
            self._study.tell(proposal.token, state=TrialState.FAIL)
        else:
            self._study.tell(proposal.token, self._objectives.values(evaluation))

    def learn(self, params: Params, evaluation: Evaluation) -> None:
        """Give the sampler a point that something else evaluated."""
        self._study.add_trial(
            optuna.trial.create_trial(
                params=dict(params),
                distributions=dict(self._space.distributions),
                values=self._objectives.values(evaluation),
            )
        )
