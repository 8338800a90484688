"""The recorder on worlds whose acceptance is known, and the whole program on a tiny model."""

import json
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from autodraft.benchmarks import reliability as program
from autodraft.benchmarks.reliability import RecordingScheduler, cascades, collect
from autodraft.cascade import Cascade, Chain, DyTC, SelfDraft
from autodraft.decoding import CascadeDecoder, SamplingConfig
from autodraft.decoding.schedulers import make_scheduler
from autodraft.measure.prompts import TokenPrompt
from autodraft.measure.reliability import reliability
from autodraft.runtime import load_model
from autodraft.simulation import Entry, ModelDraft, Schedule, World, simulate
from tests.decoding.paced import PacedDrafter
from tests.simulation.worlds import BOTH

SURE_OF_SOME = World(
    verify_cost={1: 1.0}, drafts=(ModelDraft(name="draft", alpha=0.7, cost={1: 0.1}, concentration=2.0),)
)


@pytest.fixture(scope="module")
def loaded(tiny_model_folder, one_thread):
    return load_model(str(tiny_model_folder))


class Believer:
    """Drafts four tokens, and believes of each what `belief` makes of the draft's own probability."""

    def __init__(self, belief):
        self._belief = belief

    def grow(self, bench):
        node = 0
        for candidates in bench.chain(0, 0, 4, 1):
            node = bench.growth.add(node, candidates.tokens[0], 0, self._belief(candidates.probs[0]))

    def observe(self, bench, accepted, steps):
        pass


def _recorded(belief):
    """In a world in which a draft's probability is that of its being right."""
    recorder = RecordingScheduler(Believer(belief))
    simulation = simulate(SURE_OF_SOME, Schedule(Chain(), (Entry(0, 4),)), num_tokens=6000, scheduler=recorder)
    return recorder.judged, simulation


def _p_value(judged, truth):
    """Of the outcomes in every bin, given the probability of each."""
    probs = np.array([truth(token.estimate) for token in judged])
    bins = np.minimum((probs * 10).astype(int), 9)
    surplus = np.bincount(bins, [token.accepted for token in judged] - probs)
    variance = np.bincount(bins, probs * (1 - probs))
    enough = variance > 5
    return stats.chi2.sf((surplus[enough] ** 2 / variance[enough]).sum(), enough.sum())


def test_what_is_measured_is_the_true_probability_of_acceptance():
    judged, simulation = _recorded(lambda prob: prob)
    assert _p_value(judged, lambda estimate: estimate) > 1e-3
    assert sum(token.accepted for token in judged) == simulation.num_tokens - simulation.num_cycles
    found = reliability([token.estimate for token in judged], [token.accepted for token in judged])
    assert found.calibration_error < 2 * found.chance_error


def test_overconfidence_is_found_and_its_curve_is_the_planted_one():
    judged, _ = _recorded(lambda prob: prob**0.5)
    assert _p_value(judged, lambda estimate: estimate) < 1e-6
    assert _p_value(judged, lambda estimate: estimate**2) > 1e-3
    found = reliability([token.estimate for token in judged], [token.accepted for token in judged])
    assert found.mean_estimate > found.observed + 0.05 and found.calibration_error > 3 * found.chance_error


def test_tokens_behind_a_rejection_do_not_count():
    judged, simulation = _recorded(lambda prob: prob)
    # Of each cycle at most one rejection is seen; of four drafted tokens those behind it are not.
    rejected = sum(not token.accepted for token in judged)
    whole = simulation.histogram[5]
    assert rejected == simulation.num_cycles - whole and len(judged) < 4 * simulation.num_cycles


def test_recording_changes_nothing():
    schedule = Schedule(DyTC(), (Entry(0, 6), Entry(1, 6), Entry(2, 8)))
    plain = simulate(BOTH, schedule, num_tokens=2000)
    levels = schedule.levels(BOTH)
    recorder = RecordingScheduler(make_scheduler(DyTC(), levels))
    assert simulate(BOTH, schedule, num_tokens=2000, scheduler=recorder) == plain
    assert {token.draft for token in recorder.judged} == {0, 1, 2}


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_what_is_recorded_is_what_the_decoder_counts(loaded, temperature):
    cascade = Cascade(drafts=tuple(cascades(2)[-1].values()), scheduler=DyTC())
    drafter = PacedDrafter(loaded.runtime, cascade)
    recorder = drafter.scheduler = RecordingScheduler(drafter.scheduler)
    decoder = CascadeDecoder(loaded.runtime, drafter=drafter)
    accepted = Counter()
    for number in range(1, 5):
        generation = decoder.generate(
            range(number, number + 9), max_new_tokens=60, sampling=SamplingConfig(temperature), seed=number
        )
        accepted.update({draft: counts.accepted_tokens for draft, counts in enumerate(generation.stats.drafts)})
    assert +accepted == Counter(token.draft for token in recorder.judged if token.accepted) != Counter()
    assert all(0 <= token.estimate <= 1 for token in recorder.judged)


def test_self_drafts_are_told_apart_by_choice(loaded):
    prompts = [TokenPrompt("1", "text", tuple(range(1, 10)))]
    drafts = cascades(2)[0]
    groups = collect(loaded, drafts, prompts, 60, SamplingConfig())
    assert groups
    for name, judged in groups.items():
        draft, _, choice = name.partition(": ")
        assert draft in drafts and bool(choice) == isinstance(drafts[draft], SelfDraft)
        assert {token.draft for token in judged} == {list(drafts).index(draft)}


def test_the_program_writes_all_three_files(tiny_model_folder, tmp_path, one_thread):
    options = ["--num-prompts", "2", "--new-tokens", "24", "--temperatures", "0"]
    program.main(["--model", str(tiny_model_folder), *options, "--output", str(tmp_path / "found")])
    document = json.loads((tmp_path / "found.json").read_text())
    assert document["results"] and document["num_prompts"] == 2
    for row in document["results"]:
        assert sum(part["count"] for part in row["bins"]) == row["count"] > 0
        assert f"| 0 | {row['draft']} | {row['count']} |" in (tmp_path / "found.md").read_text()
    assert "--num-prompts 2" in document["command"]
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
