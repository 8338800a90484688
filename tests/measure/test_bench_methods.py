"""The methods that are made here: the skip-only draft, and the lossy reference lines."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch

from autodraft.cascade import Cascade, Chain, DyTC, SelfDraft, StaticTree, Vertical
from autodraft.measure.methods import METHODS, BenchContext, Ready, Unavailable, rescheduled
from autodraft.measure.prompts import TokenPrompt
from autodraft.measure.skip_only import derive_skip_only, skip_policies
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.profile import DraftProfile
from autodraft.runtime import LoadedModel, Rows, load_model

PROMPT = (5, 9, 7, 30, 41, 5, 9)


@pytest.fixture(scope="module")
def loaded(tiny_model_folder: Path) -> LoadedModel:
    return load_model(str(tiny_model_folder))


def test_the_least_influential_sub_layers_are_skipped_first() -> None:
    influence = [0.5, 0.1, 0.4, 0.2, 0.9, 0.3, 0.8, 0.7]
    policies = skip_policies(influence)
    assert [policy.num_skipped for policy in policies] == [1, 2, 3, 4]
    for policy in policies:
        skipped = {index for index, shares in enumerate(policy.sub_layers) if shares == ChannelShares()}
        others = set(range(8)) - skipped
        assert max(influence[index] for index in skipped) < min(influence[index] for index in others)
        assert all(policy.sub_layers[index] == ChannelShares.all_at(16) for index in others)
        assert policy.head_bits == 16
    smaller = [{i for i, s in enumerate(policy.sub_layers) if s == ChannelShares()} for policy in policies]
    assert all(few < many for few, many in itertools.pairwise(smaller))


def test_a_sub_layer_that_does_nothing_is_skipped(loaded: LoadedModel, tiny_model_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    from autodraft.runtime import build_runtime

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).eval()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.zero_()
    idle = dataclasses.replace(loaded, runtime=build_runtime(model, backend="torch"), generation_eos=frozenset())
    calibration = [TokenPrompt(str(n), "text", tuple(range(n, n + 9))) for n in range(1, 5)]
    found = derive_skip_only(idle, calibration, latency_s=0.2)
    assert found.draft.policy.sub_layers[3] == ChannelShares()
    assert found.num_skipped == found.draft.policy.num_skipped
    assert found.cascade.drafts == (found.draft,)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_lossy_line_is_the_low_bit_model_after_the_targets_prompt(loaded: LoadedModel, bits: int) -> None:
    context = BenchContext(loaded, None, PROMPT)
    method = METHODS[f"int{bits}-autoregressive"](context)
    runtime = loaded.runtime
    if bits not in runtime.available_bits:
        assert isinstance(method, Unavailable) and str(bits) in method.reason
        return
    assert isinstance(method, Ready)
    plan = runtime.plan(DraftPolicy.uniform(runtime.spec.num_blocks, bits))
    cache = runtime.new_cache()
    runtime.prefill(cache, PROMPT[:-1])
    tokens, expected = PROMPT[-1], []
    for _ in range(12):
        rows = Rows.chain([tokens], cache.length)
        tokens = int(runtime.forward(plan, cache, rows)[0].argmax())
        cache.commit(rows.slots)
        expected.append(tokens)
    for _ in range(2):  # nothing of one call is left for the next
        run = method.contestant(PROMPT, 12)
        assert list(run.tokens) == expected
        assert run.decode_s > 0 and run.cycles == 0


def test_another_scheduler_gets_the_profiles_drafts_in_its_own_order(profile: DraftProfile) -> None:
    lookup, model = profile.cascade.drafts
    of_lookup, of_model = profile.priors.drafts
    tree, priors = rescheduled(profile, StaticTree())
    assert tree == Cascade(drafts=(lookup, model), scheduler=StaticTree()) and priors == profile.priors
    vertical, priors = rescheduled(profile, Vertical())
    assert vertical.drafts == (model, lookup) and priors.drafts == (of_model, of_lookup)
    back = profile.model_copy(update={"cascade": vertical, "priors": priors})
    assert rescheduled(back, Chain()) == (profile.cascade, profile.priors)


def test_a_scheduler_that_decides_how_far_to_draft_is_not_held_to_a_fixed_length(profile: DraftProfile) -> None:
    lookup, model = profile.cascade.drafts
    cautious = model.model_copy(update={"stop_threshold": 0.5})
    dynamic, _ = rescheduled(profile.model_copy(update={"cascade": Cascade(drafts=(cautious, lookup))}), DyTC())
    first, second = dynamic.drafts
    assert second == lookup and isinstance(first, SelfDraft) and isinstance(model, SelfDraft)
    assert first.num_draft_tokens > model.num_draft_tokens and first.stop_threshold == 0
    assert first.policy == model.policy
