"""The benchmark: which methods run, what is said of those that do not, and figures against planted times."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from autodraft.cascade import AUTOREGRESSIVE, Cascade, Chain, PromptLookup
from autodraft.errors import InputError, ProfileError
from autodraft.measure.bench import bench_rows, chosen_methods, run_bench, runner_up
from autodraft.measure.bench_report import OVERALL
from autodraft.measure.methods import LOSSY, METHODS, PUBLISHED
from autodraft.measure.prompts import TokenPrompt
from autodraft.measure.speedup import Contestant, Run, Session, measure_speedup
from autodraft.profile import DraftProfile, Fingerprint
from autodraft.runtime import LoadedModel, load_model

PROMPTS = [TokenPrompt(str(i), "even" if i % 2 == 0 else "odd", (i + 1,)) for i in range(8)]


def taking(seconds: float, last: int = 0, cycles: int = 0) -> Contestant:
    def run(prompt: Sequence[int], n: int) -> Run:
        return Run((*range(n - 1), last), 0.1, seconds * n, cycles=cycles, histogram={1: cycles} if cycles else {})

    return run


@pytest.fixture
def session() -> Session:
    contestants = {
        "autoregressive": taking(0.01, cycles=10),
        "profile": taking(0.004),
        "dytc": taking(0.005),
        "prompt-lookup": taking(0.008),
        "hf-generate": taking(0.02, last=5),
        "int8-autoregressive": taking(0.001),
    }
    return measure_speedup(contestants, PROMPTS, max_new_tokens=10)


@pytest.fixture(scope="module")
def loaded(tiny_model_folder: Path) -> LoadedModel:
    return load_model(str(tiny_model_folder), backend="torch")


@pytest.fixture
def own_profile(profile: DraftProfile, loaded: LoadedModel) -> DraftProfile:
    stamp = profile.target.model_copy(update={"fingerprint": Fingerprint(**loaded.fingerprint)})
    return profile.model_copy(update={"target": stamp})


def test_every_method_and_task_has_a_row(session: Session) -> None:
    rows = {(row.method, row.task): row for row in bench_rows(session, list(session.runs), sampled=False)}
    assert len(rows) == 6 * 3 and list(rows)[2] == ("autoregressive", OVERALL)
    assert rows["profile", "even"].speedup == pytest.approx(2.5)
    assert rows["profile", OVERALL].ratio_of_means == pytest.approx((0.1 + 0.1) / (0.1 + 0.04))
    assert rows["hf-generate", OVERALL].num_identical == 0 and rows["profile", OVERALL].is_identical
    assert rows["autoregressive", OVERALL].tokens_per_cycle == 1.0
    assert rows["hf-generate", OVERALL].tokens_per_cycle is None and rows["hf-generate", OVERALL].shares is None


def test_no_identity_is_claimed_for_another_generator(session: Session) -> None:
    rows = {row.method: row for row in bench_rows(session, list(session.runs), sampled=True) if row.task == OVERALL}
    assert rows["hf-generate"].num_identical is None and rows["int8-autoregressive"].num_identical is None
    assert rows["prompt-lookup"].num_identical == len(PROMPTS)


def test_the_runner_up_is_the_closest_lossless_method(session: Session) -> None:
    found = runner_up(session, list(session.runs))
    assert found is not None and found.published is not None
    assert found.ours == "profile"
    assert (found.next.method, found.published.method) == ("dytc", "prompt-lookup")
    assert found.next.ratio == pytest.approx(1.25) and found.published.ratio == pytest.approx(2.0)
    assert found.next.is_apart  # the planted times have no spread
    assert [ratio.method for ratio in found.ratios] == ["dytc", "prompt-lookup", "autoregressive", "hf-generate"]


def test_without_a_profile_the_fastest_of_ours_takes_its_place(session: Session) -> None:
    del session.runs["profile"]
    found = runner_up(session, list(session.runs))
    assert found is not None and found.ours == "dytc" and found.next.method == "prompt-lookup"
    assert runner_up(session, ["autoregressive", "hf-generate"]) is None


def test_methods_are_chosen_by_name() -> None:
    assert chosen_methods() == list(METHODS)
    assert chosen_methods(["dytc", "profile"]) == ["autoregressive", "profile", "dytc"]
    assert not [name for name in chosen_methods(hf=False) if name.startswith("hf-")]
    with pytest.raises(InputError, match="no method dyct; there are autoregressive, profile, chain"):
        chosen_methods(["dyct"])
    assert set(METHODS) >= PUBLISHED | LOSSY


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_all_our_methods_give_the_targets_output(
    loaded: LoadedModel, own_profile: DraftProfile, temperature: float
) -> None:
    report = run_bench(
        loaded, own_profile, methods=chosen_methods(hf=False), num_prompts=2, new_tokens_per_prompt=16,
        temperature=temperature, seed=3,
    )  # fmt: skip
    assert set(report.kinds) | set(report.unavailable) == set(chosen_methods(hf=False))
    assert set(report.unavailable) == {"chain", "int8-autoregressive", "int4-autoregressive"}
    for method in report.kinds:
        assert report.row(method).is_identical, method
        shares = report.row(method).shares
        assert shares is not None
        assert shares.draft + shares.verify + shares.scheduling + shares.rest == pytest.approx(1.0)
    assert report.row("profile").alpha_per_draft is not None
    assert "torch backend" in report.unavailable["int8-autoregressive"]


def test_why_our_schedulers_do_not_run_is_said(loaded: LoadedModel, own_profile: DraftProfile) -> None:
    names = ["profile", "chain", "vertical", "dytc"]

    def unavailable(cascade: Cascade | None) -> dict[str, str]:
        changed = None if cascade is None else own_profile.model_copy(update={"cascade": cascade})
        return run_bench(loaded, changed, methods=names, num_prompts=2, new_tokens_per_prompt=8).unavailable

    assert unavailable(None) == dict.fromkeys(names, "no profile was given")
    assert set(unavailable(AUTOREGRESSIVE)) == set(names)
    one_draft = Cascade(drafts=(PromptLookup(),), scheduler=Chain())
    assert set(unavailable(one_draft)) == {"chain", "vertical"}


def test_another_models_profile_is_refused(loaded: LoadedModel, profile: DraftProfile) -> None:
    with pytest.raises(ProfileError, match="weights"):
        run_bench(loaded, profile)
