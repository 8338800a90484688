"""Pauses of a draft that slows decoding down."""

from autodraft.decoding.on_the_fly.live import LiveFigures


def _run(live, cycles, start=0, *, accepted, seconds):
    """In which cycles it drafts, with a target step of one second and three tokens drafted."""
    drafted = []
    for cycle in range(start, start + cycles):
        if live.should_draft(cycle, 1.0, None):
            drafted.append(cycle)
            live.note(3, accepted, seconds)
    return drafted


def test_a_draft_that_pays_is_never_paused():
    live = LiveFigures()
    assert len(_run(live, 200, accepted=2, seconds=2.0)) == 200
    assert abs(live.alpha - 2 / 3) < 1e-9 and abs(live.speedup(1.0) - 1.5) < 1e-9


def test_a_useless_draft_is_tried_ever_more_rarely():
    live = LiveFigures()
    drafted = _run(live, 3000, accepted=0, seconds=2.0)
    assert drafted[:8] == list(range(8)) and drafted[8] == 8 + 32
    assert len(drafted) < 0.04 * 3000


def test_after_a_change_of_text_it_is_taken_up_again():
    live = LiveFigures()
    _run(live, 100, accepted=0, seconds=2.0)
    assert len(_run(live, 1000, 100, accepted=3, seconds=2.0)) > 900


def test_another_draft_gets_a_try_at_once():
    live = LiveFigures()
    _run(live, 20, accepted=0, seconds=2.0)
    assert not live.should_draft(20, 1.0, None)
    live.replaced()
    assert live.should_draft(20, 1.0, None)


def test_before_it_was_tried_the_prediction_decides_but_not_for_good():
    live = LiveFigures()
    assert live.should_draft(0, 1.0, 1.2)
    drafting = [cycle for cycle in range(100) if live.should_draft(cycle, 1.0, 0.9)]
    assert drafting == list(range(32, 100))  # tried after a pause, and not yet found wanting


def test_alpha_counts_tested_positions_only():
    live = LiveFigures()
    assert live.alpha is None
    live.note(5, 1, 1.0)  # accepted, rejected, three not tested
    assert live.alpha == 0.5
