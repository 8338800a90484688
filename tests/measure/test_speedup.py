"""F2 with contestants whose times are planted, and once with real decoders."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from autodraft.cascade import Cascade, PromptLookup, SelfDraft
from autodraft.measure.prompts import TokenPrompt
from autodraft.measure.speedup import BASELINE, Contestant, Run, Session, measure_speedup, speedup_of_cascades
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
                   draft_s=0.2 * seconds, verify_s=0.7 * seconds, histogram={2: n // 2})  # fmt: skip

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
    assert session.figures("draft").tokens_per_cycle > 2.5
