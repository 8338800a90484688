"""From a saved checkpoint and a profile to a decoder."""

import pytest

from autodraft.cascade import Cascade, DyTC, PromptLookup, SelfDraft, SuffixAutomaton, TokenRecycling
from autodraft.decoding import CascadeDecoder
from autodraft.errors import ProfileError
from autodraft.policy import DraftPolicy
from autodraft.profile import DraftPrior, DraftProfile, Priors
from autodraft.runtime import load_model


@pytest.fixture(scope="module")
def loaded(tiny_model_folder):
    return load_model(str(tiny_model_folder), dtype="float32", device="cpu", max_length=96)


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


@pytest.mark.parametrize("verify_cost", [{}, {1: 1.0, 8: 1.2}])
def test_with_a_curve_of_verification_it_drafts_from_the_first_token_on(loaded, profile, verify_cost):
    cascade = Cascade(drafts=(SelfDraft(policy=DraftPolicy.uniform(loaded.runtime.spec.num_blocks, 8)),))
    priors = Priors(drafts=(DraftPrior(alpha=0.9, cost=0.1),), verify_cost=verify_cost)
    decoder = CascadeDecoder.from_profile(loaded, _profile_for(loaded, profile, cascade=cascade, priors=priors))
    stats = decoder.generate([1, 2, 3], max_new_tokens=8).stats
    assert (stats.autoregressive_cycles == 0) == bool(verify_cost)


TEXT = [1, 2, 3, 4, 5, 6] * 4


def test_what_a_scheduler_learns_of_free_drafts_goes_through_a_profile(loaded, profile, tmp_path):
    model = SelfDraft(policy=DraftPolicy.uniform(loaded.runtime.spec.num_blocks, 8))
    cascade = Cascade(drafts=(model, SuffixAutomaton(), TokenRecycling()), scheduler=DyTC())
    expected = CascadeDecoder(loaded.runtime).generate(TEXT, max_new_tokens=60)

    def decode(priors):
        decoder = CascadeDecoder.from_profile(loaded, _profile_for(loaded, profile, cascade=cascade, priors=priors))
        before = decoder.drafter.acceptance_by_class
        assert decoder.generate(TEXT, max_new_tokens=60).tokens == expected.tokens
        return before, decoder.drafter.acceptance_by_class

    start, learnt = decode(Priors())
    assert learnt[0] == start[0] == () and learnt[1:] != start[1:]
    assert [len(each) for each in learnt] == [len(each) for each in start]
    drafts = [DraftPrior(alpha=0.5, cost=0.2, acceptance_by_class=each) for each in learnt]
    saved = _profile_for(loaded, profile, cascade=cascade, priors=Priors(drafts=drafts))
    saved.save(tmp_path / "profile.json")
    again, _ = decode(DraftProfile.load(tmp_path / "profile.json").priors)
    assert again == learnt


def test_priors_of_other_classes_are_refused(loaded, profile):
    cascade = Cascade(drafts=(PromptLookup(),), scheduler=DyTC())
    priors = Priors(drafts=(DraftPrior(alpha=0.5, cost=0.0, acceptance_by_class=(0.5,)),))
    with pytest.raises(ProfileError, match="have 1 classes of tokens instead of 6"):
        CascadeDecoder.from_profile(loaded, _profile_for(loaded, profile, cascade=cascade, priors=priors))
