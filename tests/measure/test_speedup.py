"""F2 with contestants whose times are planted, and once with real decoders."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from autodraft.cascade import AUTOREGRESSIVE, Cascade, PromptLookup, SelfDraft
from autodraft.decoding import SamplingConfig
from autodraft.measure.prompts import TokenPrompt
from autodraft.measure.speedup import (
    BASELINE,
    Contestant,
    Run,
    Session,
    decoder_contestant,
    measure_speedup,
    prompt_seed,
    speedup_of_cascades,
)
from autodraft.policy import DraftPolicy
from autodraft.runtime import TransformerRuntime

PROMPTS = [TokenPrompt(str(i), "even" if i % 2 == 0 else "odd", (i + 1, i + 2)) for i in range(6)]


def fixed(factor: float, calls: list[str], name: str, last: int = 0) -> Contestant:
    """Takes `factor` of the baseline's time on even prompts and half of that gain on odd ones."""

    def run(prompt: Sequence[int], n: int) -> Run:
        calls.append(name)
        seconds = 0.01 * n * (factor if prompt[0] % 2 else (1 + factor) / 2)
        tokens = (*range(n - 1), last)
        return Run(tokens, 0.5, seconds, cycles=n // 2, drafted_tokens=n, accepted_tokens=n // 2,
                   draft_s=0.2 * seconds, verify_s=0.7 * seconds, scheduling_s=0.06 * seconds,
                   histogram={2: n // 2})  # fmt: skip

    return run


@pytest.fixture
def session() -> Session:
    calls: list[str] = []
    contestants = {BASELINE: fixed(1.0, calls, "base"), "fast": fixed(0.5, calls, "fast"),
                   "odd": fixed(1.0, calls, "odd", last=9)}  # fmt: skip
    result = measure_speedup(contestants, PROMPTS, max_new_tokens=10, repeats=2)
    assert all(set(calls[i : i + 3]) == {"base", "fast", "odd"} for i in range(0, len(calls), 3))
    assert len(calls) == 3 * (1 + 2 * len(PROMPTS))  # one warm-up each
    return result


def test_speedup_is_the_ratio_of_total_decode_times(session: Session) -> None:
    comparison = session.compare("fast")
    assert comparison.speedup.value == pytest.approx(6 / (3 * 0.5 + 3 * 0.75))
    assert comparison.tokens_per_s == pytest.approx(60 / (0.1 * (1.5 + 2.25)))
    assert session.compare("fast", "even").speedup.value == pytest.approx(2.0)
    assert session.per_prompt("fast") == pytest.approx([2.0, 4 / 3] * 3)


def test_other_output_is_noticed(session: Session) -> None:
    assert session.compare("fast").identical and not session.compare("odd").identical


def test_figures_of_a_cycle(session: Session) -> None:
    figures = session.figures("odd")
    assert figures.tokens_per_cycle == 2.0 and figures.num_draft_tokens == 2.0 and figures.alpha == 0.5
    # Steps take 10 ms, cycles 20 ms: 4 for two drafted tokens, 14 for verifying, 2 unaccounted for.
    assert (figures.cost, figures.verify_cost, figures.overhead) == pytest.approx((0.2, 1.4, 0.2))
    assert figures.predicted_speedup == pytest.approx(2.0 / 1.8)


def test_time_shares_add_up(session: Session) -> None:
    shares = session.figures("fast").shares
    assert (shares.draft, shares.verify, shares.scheduling, shares.rest) == pytest.approx((0.2, 0.7, 0.06, 0.04))


def test_any_two_contestants_can_be_compared(session: Session) -> None:
    pair = session.compare_pair("fast", "odd")
    assert pair.speedup == session.compare("fast").speedup  # "odd" is as fast as the baseline
    assert pair.num_identical == 0
    inverse = session.compare_pair("odd", "fast", "odd").speedup
    assert inverse.value == pytest.approx(0.75)
    assert session.compare_pair("fast", "fast").speedup.value == 1.0


def test_the_ratio_of_means_is_spec_benchs(session: Session) -> None:
    # 10 tokens in 0.5 s of prefill and 0.1 s, 0.05 s or 0.075 s of decoding.
    expected = ((10 / 0.55 + 10 / 0.575) / 2) / (10 / 0.6)
    assert session.ratio_of_means("fast") == pytest.approx(expected)
    assert session.ratio_of_means("fast", "odd") == pytest.approx((10 / 0.575) / (10 / 0.6))


def test_sampling_is_seeded_by_the_prompt_alone(runtime: TransformerRuntime) -> None:
    sampling = SamplingConfig(temperature=1.0)
    draft = Cascade(drafts=(SelfDraft(policy=DraftPolicy.uniform(3), num_draft_tokens=3),))
    plain, drafting = (
        decoder_contestant(runtime, cascade, sampling=sampling, seed=7) for cascade in (AUTOREGRESSIVE, draft)
    )
    first, second = (1, 2, 3), (4, 5)
    expected = [plain(prompt, 16).tokens for prompt in (first, second)]
    assert [drafting(prompt, 16).tokens for prompt in (second, first, second)] == [
        expected[1], expected[0], expected[1],
    ]  # fmt: skip
    assert prompt_seed(first, 7) not in (prompt_seed(first, 8), prompt_seed(second, 7))


def test_a_session_can_end_early() -> None:
    calls: list[str] = []
    contestants = {BASELINE: fixed(1.0, calls, "base")}
    session = measure_speedup(
        contestants, PROMPTS, max_new_tokens=4, on_prompt=lambda so_far: len(so_far.runs[BASELINE]) == 2
    )
    assert len(session.runs[BASELINE]) == 2
    with pytest.raises(ValueError, match="autoregressive"):
        measure_speedup({}, PROMPTS, max_new_tokens=4)


def test_real_decoders_give_the_same_tokens(runtime: TransformerRuntime) -> None:
    draft = SelfDraft(policy=DraftPolicy.uniform(3), num_draft_tokens=3)
    cascades = {"draft": Cascade(drafts=(draft,)), "both": Cascade(drafts=(PromptLookup(), draft))}
    session = speedup_of_cascades(runtime, cascades, PROMPTS[:3], max_new_tokens=12)
    for name in cascades:
        assert session.compare(name).identical
    # The target is its own draft: slow enough for the guard to stop it, but not before some cycles were seen.
    assert session.figures("draft").tokens_per_cycle > 1.0
    assert max(session.figures("draft").histogram) == 4
