"""Fitted drafts in files: fitted once, in the time that there is, for the target in any width."""

import pytest
import torch

from autodraft.fitting import fitter
from autodraft.fitting.fitter import DraftFitter
from autodraft.measure.prompts import calibration_prompts, encode_prompts
from autodraft.policy import DraftPolicy
from autodraft.runtime import LoadedModel, Rows, build_runtime, load_model
from tests.runtime.tiny import tiny_model

POLICY = DraftPolicy.uniform(3, 4)
TEXTS = [[(7 * position + start) % 97 for position in range(60)] for start in range(20)]


@pytest.fixture(scope="module")
def loaded(one_thread) -> LoadedModel:
    fingerprint = {"config": "0" * 64, "weights": "1" * 64}
    return LoadedModel(build_runtime(tiny_model("llama")), None, "tiny", "tiny", 1, None, fingerprint, frozenset())


def test_a_draft_is_fitted_once(loaded, tmp_path):
    first = DraftFitter(loaded, TEXTS, tmp_path).fit(POLICY)
    assert first is not None and [path.name for path in tmp_path.iterdir()] == [first.file]
    again = DraftFitter(loaded, TEXTS, tmp_path)
    assert again.fit(POLICY, seconds=0.0) == first, "what is there costs no time"
    others = [DraftFitter(loaded, TEXTS[1:], tmp_path).fit(POLICY), again.fit(DraftPolicy.uniform(3, 4).replace({}, 8))]
    assert len({first.file, *(other.file for other in others if other is not None)}) == 3


def test_without_the_time_for_it_nothing_is_fitted_and_nothing_is_left_behind(loaded, tmp_path):
    assert DraftFitter(loaded, TEXTS, tmp_path).fit(POLICY, seconds=0.0) is None
    assert DraftFitter(loaded, TEXTS, tmp_path).fit(POLICY, seconds=1e-3) is None
    assert not list(tmp_path.iterdir())


def test_nothing_is_fitted_that_would_not_find_room(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(fitter, "available_bytes", lambda device: 100_000)
    assert DraftFitter(loaded, TEXTS, tmp_path).fit(POLICY) is None
    monkeypatch.setattr(fitter, "available_bytes", lambda device: None)
    assert DraftFitter(loaded, TEXTS, tmp_path).fit(POLICY) is not None


def test_a_widened_target_runs_the_draft_of_the_narrow_one(tmp_path):
    narrow, wide = load_model("llama", dtype="float32"), load_model("llama", dtype="float32", widen=2)
    texts = [prompt.tokens for prompt in encode_prompts(calibration_prompts()[:4], narrow.tokenizer, 256)]
    policy = DraftPolicy.uniform(16, 4)
    files = [DraftFitter(loaded, texts, tmp_path).fit(policy) for loaded in (narrow, wide)]
    assert files[0] is not None and files[0] == files[1]
    rows = Rows.chain(texts[0][:24], 0)
    logits = [
        loaded.runtime.forward(loaded.runtime.plan(policy, files[0]), loaded.runtime.new_cache(), rows)
        for loaded in (narrow, wide)
    ]
    assert float((logits[0].argmax(1) == logits[1].argmax(1)).float().mean()) > 0.9
    assert torch.allclose(*logits, atol=0.3)
    fewer = wide.runtime.plan(policy).extra_bytes
    assert wide.runtime.plan(policy, files[0]).extra_bytes == fewer, "all of it is at low bits either way"
