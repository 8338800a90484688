"""What synthetic drafts say: right as often as the world says, calibrated, the same whoever asks."""

import numpy as np
import pytest
from pydantic import ValidationError

from autodraft.simulation import FreeDraft, ModelDraft, Phase, Runs, Truth, World
from autodraft.simulation.truth import TRUE_TOKEN

NUM = 20_000


def first_tokens(truth: Truth, draft: int, num: int = NUM) -> np.ndarray:
    return np.array([truth.choices(draft, truth.at(position), 1)[0][0] for position in range(num)])


def model(alpha: float, **settings: object) -> ModelDraft:
    return ModelDraft.model_validate({"name": "model", "alpha": alpha, "cost": {1: 0.2}, **settings})


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.8, 1.0])
def test_a_model_is_right_with_probability_alpha_and_independently(alpha: float) -> None:
    right = first_tokens(Truth(World(drafts=(model(alpha),)), 0), 0) == TRUE_TOKEN
    assert right.mean() == pytest.approx(alpha, abs=0.012)
    assert (right[1:] & right[:-1]).mean() == pytest.approx(alpha * alpha, abs=0.015)


def test_reported_probabilities_are_calibrated_choice_by_choice() -> None:
    truth = Truth(World(drafts=(model(0.7, concentration=2.0, second=0.4),)), 1)
    found = [truth.choices(0, truth.at(position), 3) for position in range(NUM)]
    for rank in range(3):
        probs = np.array([prob[rank] for _, prob in found])
        right = np.array([tokens[rank] == TRUE_TOKEN for tokens, _ in found])
        for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 0.9), (0.9, 1.0)):
            inside = (probs >= low) & (probs <= high)
            if inside.sum() > 1000:
                assert right[inside].mean() == pytest.approx(probs[inside].mean(), abs=0.03)
    assert np.mean([probs[0] for _, probs in found]) == pytest.approx(0.7, abs=0.01)
    assert all(list(probs) == sorted(probs, reverse=True) and sum(probs) <= 1 + 1e-9 for _, probs in found)
    assert all(len(set(tokens)) == 3 for tokens, _ in found)


def test_second_choices_catch_their_share_of_the_misses() -> None:
    truth = Truth(World(drafts=(model(0.6, second=0.4),)), 2)
    found = [truth.choices(0, truth.at(position), 2)[0] for position in range(NUM)]
    missed = [tokens for tokens in found if tokens[0] != TRUE_TOKEN]
    assert np.mean([tokens[1] == TRUE_TOKEN for tokens in missed]) == pytest.approx(0.4, abs=0.02)
    assert all(tokens[1] != TRUE_TOKEN for tokens in found if tokens[0] == TRUE_TOKEN)


def test_a_draft_may_follow_the_one_above_it_independently_of_the_target() -> None:
    world = World(drafts=(model(0.8), FreeDraft(name="below", alpha=0.6, reference="above")))
    truth = Truth(world, 3)
    above, below = first_tokens(truth, 0), first_tokens(truth, 1)
    assert (above == below).mean() == pytest.approx(0.6, abs=0.012)
    assert (above == below)[above != TRUE_TOKEN].mean() == pytest.approx(0.6, abs=0.03)
    assert (below == TRUE_TOKEN).mean() == pytest.approx(world.acceptance(1), abs=0.012)
    assert world.acceptance(1) == pytest.approx(0.48)


def test_after_a_wrong_token_drafts_go_on_but_not_on_the_true_path() -> None:
    truth = Truth(World(drafts=(model(0.5),)), 4)
    wrong = truth.after(truth.at(5), 7)
    assert not wrong.is_true and not truth.after(wrong, TRUE_TOKEN).is_true
    assert truth.after(truth.at(5), TRUE_TOKEN) is truth.at(6)
    others = [truth.choices(0, truth.after(truth.at(position), 7), 1)[0][0] for position in range(NUM)]
    assert np.mean(np.array(others) == TRUE_TOKEN) == pytest.approx(0.5, abs=0.012)


def test_answers_depend_on_the_seed_and_not_on_who_asked_before() -> None:
    world = World(drafts=(model(0.6, second=0.3), FreeDraft(name="free", alpha=0.4, runs=Runs(length=6))))
    forward, backward, other = Truth(world, 5), Truth(world, 5), Truth(world, 6)
    positions = range(500)
    answers = [(forward.choices(0, forward.at(p), 2), forward.match(1, forward.at(p))) for p in positions]
    again = [(backward.choices(0, backward.at(p), 2), backward.match(1, backward.at(p))) for p in reversed(positions)]
    assert answers == again[::-1]
    assert answers != [(other.choices(0, other.at(p), 2), other.match(1, other.at(p))) for p in positions]


def test_runs_have_their_length_and_matches_tell_of_them() -> None:
    truth = Truth(World(drafts=(FreeDraft(name="free", alpha=0.35, runs=Runs(length=10)),)), 7)
    right = first_tokens(truth, 0, 60_000) == TRUE_TOKEN
    assert right.mean() == pytest.approx(0.35, abs=0.02)
    matches = np.array([truth.match(0, truth.at(position)) for position in range(60_000)])
    counted = np.zeros(60_000, dtype=int)
    for position in range(1, 60_000):
        counted[position] = min(counted[position - 1] + 1, 7) if right[position - 1] else 0
    assert (matches == counted).all()
    after_match, after_miss = right[matches >= 3].mean(), right[matches == 0].mean()
    assert after_match == pytest.approx(0.95 * 0.9 + 0.05 * 0.1, abs=0.03)  # in a run unless it has just ended
    assert after_miss < 0.15


def test_a_match_goes_on_along_the_drafts_own_guesses_and_ends_with_another_token() -> None:
    truth = Truth(World(drafts=(FreeDraft(name="free", alpha=0.5),)), 8)
    prefix = next(p for p in map(truth.at, range(100)) if truth.choices(0, p, 1)[0][0] != TRUE_TOKEN)
    guess = truth.choices(0, prefix, 1)[0][0]
    assert truth.match(0, truth.after(prefix, guess)) == truth.match(0, prefix) + 1
    assert truth.match(0, truth.after(prefix, 99)) == 0


def test_phases_follow_each_other_and_the_draft_does_not_know_them() -> None:
    draft = model(0.5, phases=(Phase(tokens=100, alpha=0.9), Phase(tokens=300, alpha=0.2)))
    truth = Truth(World(drafts=(draft,)), 9)
    right = (first_tokens(truth, 0) == TRUE_TOKEN).reshape(-1, 400)
    assert right[:, :100].mean() == pytest.approx(0.9, abs=0.02)
    assert right[:, 100:].mean() == pytest.approx(0.2, abs=0.02)
    assert truth.choices(0, truth.at(3), 1)[1] == truth.choices(0, truth.at(203), 1)[1] == [draft.mean_alpha]
    assert draft.mean_alpha == pytest.approx(0.375)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drafts": []}, "at least one draft"),
        ({"drafts": [{"kind": "free", "name": "f", "alpha": 0.5, "reference": "above"}]}, "listed above"),
        ({"drafts": [{"kind": "free", "name": "f", "alpha": 0.99, "runs": {"length": 4}}]}, "not between"),
        ({"drafts": [{"kind": "model", "name": "m", "alpha": 0.5}]}, "cost"),
        ({"drafts": [{"kind": "free", "name": "f", "alpha": 0.5}], "verify_cost": {1: 2.0}}, "by definition"),
        ({"drafts": [{"kind": "free", "name": "f", "alpha": 0.5, "cost": {1: 1.0}}]}, "Extra inputs"),
    ],
)
def test_an_impossible_world_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        World.model_validate(settings)
