"""Cascades with a routed draft: whatever the router, the output is the target's own."""

from dataclasses import replace

import pytest
import torch

from autodraft.cascade import AUTOREGRESSIVE, Cascade, DyTC, PromptLookup, RoutedDraft, StaticTree
from autodraft.decoding import SamplingConfig, ScheduledDrafter
from autodraft.errors import ProfileError
from autodraft.profile_parts import WeightsFile
from autodraft.runtime.router_file import write_router
from autodraft.runtime.routing import RouteGraph, Router
from tests.decoding.paced import eager_decoder

PROMPT = [3, 14, 15, 92, 6, 53, 3, 14]


def router_file(folder, *, reuse: int = 0, seed: int = 0) -> WeightsFile:
    """Random routes."""
    graph = RouteGraph(6, "sub-layer", reuse, 8)
    router = Router.along(graph, [], 64, 8, seed=seed, lead=0.0)
    outputs = torch.randn(router.outputs.shape, generator=torch.Generator().manual_seed(seed))
    write_router(replace(router, outputs=2 * outputs), folder / "router.safetensors", 0.5)
    return WeightsFile.of(folder / "router.safetensors", folder)


def decoded(runtime, cascade: Cascade, sampling: SamplingConfig | None = None):
    chosen = {} if sampling is None else {"sampling": sampling, "seed": 3}
    return eager_decoder(runtime, cascade).generate(PROMPT, max_new_tokens=40, **chosen)


@pytest.mark.parametrize("sampling", [None, SamplingConfig(temperature=0.7)], ids=["greedy", "sampled"])
@pytest.mark.parametrize("passed_keys", ["masked", "projected"])
@pytest.mark.parametrize("reuse", [0, 1])
def test_a_random_router_changes_nothing(runtime, tmp_path, reuse, passed_keys, sampling):
    draft = RoutedDraft(router=router_file(tmp_path, reuse=reuse), passed_keys=passed_keys, num_draft_tokens=5)
    expected = decoded(runtime, AUTOREGRESSIVE, sampling).tokens
    for scheduler in (None, DyTC(max_depth=8, max_nodes=16), StaticTree(branching=2, max_nodes=8)):
        drafts = (draft,) if scheduler is None else (draft, PromptLookup())
        cascade = Cascade(drafts=drafts) if scheduler is None else Cascade(drafts=drafts, scheduler=scheduler)
        generation = decoded(runtime, cascade, sampling)
        assert generation.tokens == expected
        assert generation.stats.drafts[0].drafted_tokens > 0


def test_a_changed_router_is_refused(runtime, tmp_path):
    draft = RoutedDraft(router=router_file(tmp_path))
    router_file(tmp_path, seed=1)
    with pytest.raises(ProfileError, match="checksum differs"):
        ScheduledDrafter(runtime, Cascade(drafts=(draft,)))
