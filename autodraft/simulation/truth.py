"""`Truth`: what target and drafts of a world say after every prefix, as a function of a seed.

Knows nothing of schedulers, trees or time. Nothing depends on what was asked before, so that different schedulers meet
the very same text and drafts, which makes their ratio far less noisy than either speed.

The target's own token is 0 after every prefix; a prefix with another token in it has left the true path, and what the
target would say there no longer matters, though it is what drafts go on guessing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from scipy import stats

from autodraft.simulation.worlds import FreeDraft, ModelDraft, World

TRUE_TOKEN = 0
_MOST_CHOICES = 16
_MASK = (1 << 64) - 1
_GRAIN = 512  # values that a Beta distribution is replaced by


@dataclass(slots=True, eq=False)
class Prefix:
    """The committed tokens and some drafted ones.

    Attributes:
        code: the same for the same tokens, else another one.
        position: number of tokens in it.
        is_true: whether the target would say all of them.
        parent: the prefix without its last token; None for true ones, which are looked up by their position.
        token: the last one.
        guesses: first choice of each draft after it and the acceptance of that, as far as known.
    """

    code: int
    position: int
    is_true: bool
    parent: Prefix | None = None
    token: int = TRUE_TOKEN
    guesses: dict[int, tuple[int, float]] = field(default_factory=dict)


class Truth:
    """See the module's text; the same world and seed give the same text.

    Args:
        world: the drafts.
        seed: of everything random.
    """

    def __init__(self, world: World, seed: int) -> None:
        self._drafts = world.all_drafts
        self._seed = _mixed(seed + 1)
        self._true: list[Prefix] = []
        self._acceptance = [_Acceptance(draft) for draft in self._drafts]
        self._in_run: list[list[bool]] = [[] for _ in self._drafts]
        self._matches: list[list[int]] = [[0] for _ in self._drafts]

    def at(self, position: int) -> Prefix:
        """The true text's first `position` tokens."""
        while len(self._true) <= position:
            known = len(self._true)
            self._true.append(Prefix(_mixed(self._seed + known), known, True))
        return self._true[position]

    def after(self, prefix: Prefix, token: int) -> Prefix:
        """A prefix and one more token."""
        if prefix.is_true and token == TRUE_TOKEN:
            return self.at(prefix.position + 1)
        return Prefix(_mixed(prefix.code ^ (token + 1)), prefix.position + 1, False, prefix, token)

    def choices(self, draft: int, prefix: Prefix, count: int) -> tuple[list[int], list[float]]:
        """A draft's best `count` next tokens and how often each is the token of its reference, best first.

        After a first choice that was wrong the second one is right in a share `second` of the cases, the third one in
        the same share of what is left, and so on; less where a second choice would be more probable than the first.
        """
        token, prob = self._guess(draft, prefix)
        if count == 1:
            return [token], [prob]
        second = self._drafts[draft].second
        if prob < (1 - prob) * second:
            second = prob / (1 - prob)
        reference = self._reference(draft, prefix)
        tokens, probs = [token], [prob]
        left, missed = 1 - prob, token != reference
        for rank in range(1, min(count, _MOST_CHOICES)):
            caught = missed and self._uniform(prefix, draft, rank) < second
            tokens.append(reference if caught else _wrong(draft, rank))
            probs.append(min(left * second, probs[-1]))
            left, missed = left * (1 - second), missed and not caught
        return tokens, probs

    def match(self, draft: int, prefix: Prefix) -> int:
        """How many of the last tokens in a row a free draft would have guessed, up to its `longest_match`."""
        level = self._drafts[draft]
        assert isinstance(level, FreeDraft)
        if not prefix.is_true:
            assert prefix.parent is not None
            guessed = self._guess(draft, prefix.parent)[0] == prefix.token
            return min(self.match(draft, prefix.parent) + 1, level.longest_match) if guessed else 0
        known = self._matches[draft]
        while len(known) <= prefix.position:
            guessed = self._guess(draft, self.at(len(known) - 1))[0] == TRUE_TOKEN
            known.append(min(known[-1] + 1, level.longest_match) if guessed else 0)
        return known[prefix.position]

    def _guess(self, draft: int, prefix: Prefix) -> tuple[int, float]:
        """A draft's first choice, and the reported probability that it is the reference's token."""
        known = prefix.guesses.get(draft)
        if known is None:
            acceptance = self._acceptance[draft]
            in_run = acceptance.has_runs and self._is_in_run(draft, prefix.position)
            uniform = self._uniform(prefix, draft, -1) if acceptance.is_spread else 0.0
            actual, reported = acceptance.at(prefix.position, in_run, uniform)
            right = self._uniform(prefix, draft, 0) < actual
            known = (self._reference(draft, prefix) if right else _wrong(draft, 0)), reported
            prefix.guesses[draft] = known
        return known

    def _reference(self, draft: int, prefix: Prefix) -> int:
        return self._guess(draft - 1, prefix)[0] if self._drafts[draft].reference == "above" else TRUE_TOKEN

    def _is_in_run(self, draft: int, position: int) -> bool:
        """The Markov chain of a draft's runs, which begins in a gap."""
        known = self._in_run[draft]
        while len(known) <= position:
            change = self._uniform(self.at(len(known)), draft, -2)
            before = bool(known) and known[-1]
            known.append(before != (change < self._acceptance[draft].change(before)))
        return known[position]

    def _uniform(self, prefix: Prefix, draft: int, purpose: int) -> float:
        return _mixed(prefix.code + (draft * 64 + purpose + 8) * 0x9E3779B97F4A7C15) / 2.0**64


class _Acceptance:
    """How likely a draft's first choice is right, by position."""

    def __init__(self, draft: ModelDraft | FreeDraft) -> None:
        self._runs = draft.runs if isinstance(draft, FreeDraft) else None
        concentration = draft.concentration if isinstance(draft, ModelDraft) else None
        self._mean = draft.mean_alpha
        self.has_runs, self.is_spread = self._runs is not None, concentration is not None
        stretches = [(phase.tokens, phase.alpha) for phase in draft.phases] or [(1, draft.alpha)]
        self._alphas = [alpha for _, alpha in stretches]
        self._phases = [number for number, (tokens, _) in enumerate(stretches) for _ in range(tokens)]
        self._spread = [] if concentration is None else [_beta_values(alpha, concentration) for alpha in self._alphas]

    def at(self, position: int, in_run: bool, uniform: float) -> tuple[float, float]:
        """(Acceptance at a position, the probability that the draft reports there).

        Where tokens do not differ the draft reports its overall mean: it does not know in which phase it is.
        """
        if self._runs is not None:
            return (self._runs.alpha if in_run else self._runs.gap_alpha), self._mean
        phase = self._phases[position % len(self._phases)]
        if self._spread:
            value = self._spread[phase][int(uniform * _GRAIN)]
            return value, value
        return self._alphas[phase], self._mean

    def change(self, in_run: bool) -> float:
        """Probability that a run ends, or that one begins, at the next position: so that runs are a share of all
        positions that makes the mean acceptance what it is.
        """
        assert self._runs is not None
        runs = self._runs
        share = (self._mean - runs.gap_alpha) / (runs.alpha - runs.gap_alpha)
        return 1 / runs.length if in_run else min(share / (1 - share) / runs.length, 1.0)


def _beta_values(alpha: float, concentration: float) -> Sequence[float]:
    """Equally likely values that stand for Beta(alpha * concentration, (1 - alpha) * concentration)."""
    if alpha in (0.0, 1.0):
        return [alpha] * _GRAIN
    middles = [(number + 0.5) / _GRAIN for number in range(_GRAIN)]
    values: list[float] = stats.beta.ppf(middles, alpha * concentration, (1 - alpha) * concentration).tolist()
    return values


def _wrong(draft: int, rank: int) -> int:
    """A token that nobody else proposes."""
    return 1 + draft * _MOST_CHOICES + rank


def _mixed(value: int) -> int:
    """64 bits that look random (the finaliser of SplitMix64, Steele et al. 2014)."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
