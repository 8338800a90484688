"""From a saved checkpoint and a profile to a decoder."""

import pytest

from autodraft.cascade import Cascade, PromptLookup, SelfDraft
from autodraft.decoding import CascadeDecoder
from autodraft.errors import ProfileError
from autodraft.policy import DraftPolicy
from autodraft.runtime import load_model


@pytest.fixture(scope="module")
def loaded(tiny_model_folder):
    return load_model(str(tiny_model_folder), dtype="float32", device="cpu", max_length=64)


def _profile_for(loaded, profile, **changes):
    spec = loaded.runtime.spec
    draft = SelfDraft(policy=DraftPolicy.uniform(spec.num_blocks, 8), num_draft_tokens=3)
    target = profile.target.model_copy(
        update={"fingerprint": type(profile.target.fingerprint)(**loaded.fingerprint), "widen": loaded.widen}
    )
    return profile.model_copy(update={"target": target, "cascade": Cascade(drafts=(PromptLookup(), draft)), **changes})


def test_a_profile_of_this_model_decodes_as_its_cascade(loaded, profile):
    made_for_it = _profile_for(loaded, profile)
    decoder = CascadeDecoder.from_profile(loaded, made_for_it)
    assert decoder.cascade == made_for_it.cascade and decoder.drafter.num_drafts == 2
    expected = CascadeDecoder(loaded.runtime).generate([1, 2, 3, 1, 2], max_new_tokens=12)
    assert decoder.generate([1, 2, 3, 1, 2], max_new_tokens=12).tokens == expected.tokens


def test_a_profile_that_says_not_to_speculate_decodes_autoregressively(loaded, profile):
    decoder = CascadeDecoder.from_profile(
        loaded, _profile_for(loaded, profile, conclusion="autoregressive", cascade=Cascade())
    )
    stats = decoder.generate([1, 2, 3], max_new_tokens=4).stats
    assert stats.tokens_per_cycle_histogram == {1: 4} and stats.autoregressive_cycles == 4


def test_a_profile_of_another_model_is_refused(loaded, profile):
    with pytest.raises(ProfileError, match="not for this model"):
        CascadeDecoder.from_profile(loaded, profile)
