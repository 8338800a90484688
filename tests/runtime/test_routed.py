"""Routed passes against the target itself and against a token-by-token reference with explicit lists of keys."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from autodraft.errors import InputError, ProfileError
from autodraft.runtime import NEVER, ChoiceNoise, Rows, TransformerRuntime, build_runtime
from autodraft.runtime.operations import apply_norm, rotate
from autodraft.runtime.routed import RoutedForward
from autodraft.runtime.routed_plan import RoutedPlan, SteppedPasses
from autodraft.runtime.router_file import read_router, write_router
from autodraft.runtime.routing import RouteGraph, Router
from tests.runtime.tiny import tiny_model

PROMPT, DRAFTED = [5, 9, 33, 2, 71, 12], [40, 7, 7, 61, 18]


@pytest.fixture(scope="module", autouse=True)
def tiny_models(one_thread):
    """All tests here run on one thread."""


def runtime_of(name: str, backend: str) -> TransformerRuntime:
    try:
        return build_runtime(tiny_model(name), backend=backend, max_length=64)
    except InputError as error:
        pytest.skip(str(error))


def graph(unit: str = "block", reuse: int = 0, most_steps: int = 9) -> RouteGraph:
    return RouteGraph(6, unit, reuse, most_steps)


def random_router(routes: RouteGraph, seed: int = 0, hidden: int = 64) -> Router:
    router = Router.along(routes, [], hidden, 8, seed=seed, lead=0.0)
    generator = torch.Generator().manual_seed(seed + 1)
    return replace(router, outputs=2 * torch.randn(router.outputs.shape, generator=generator))


def prefilled(runtime: TransformerRuntime):
    cache = runtime.new_cache()
    runtime.prefill(cache, PROMPT)
    return cache


class Reference:
    """One token at a time; every block has a list of (key, value) of the tokens that a later one sees there."""

    def __init__(self, runtime: TransformerRuntime, router: Router, projected: bool) -> None:
        self.runtime, self.router, self.projected = runtime, router, projected
        self.spec, self.weights = runtime.spec, runtime.weights
        self.keys = [[] for _ in range(self.spec.num_blocks)]
        for position, token in enumerate(PROMPT):
            self._run(token, position, along=range(router.graph.num_nodes))

    def logits(self, position: int, token: int) -> torch.Tensor:
        return self._run(token, position, along=None)

    def _run(self, token: int, position: int, along) -> torch.Tensor:
        graph, x = self.router.graph, self.weights.embedding[token].float()[None]
        own, node, steps = {}, -1, 0
        route = None if along is None else iter([*along, graph.output])
        while True:
            chosen = next(route) if route else int(self.router.destinations(node + 1, x))
            chosen = graph.output if route is None and steps >= graph.most_steps else chosen
            for passed in range(node + 1, chosen) if self.projected else ():
                for sub_layer in range(*graph.sub_layers(passed)):
                    if sub_layer % 2 == 0:
                        own.setdefault(sub_layer // 2, self._project(sub_layer // 2, x, position)[1:])
            if chosen == graph.output:
                break
            node, steps = chosen, steps + 1
            for sub_layer in range(*graph.sub_layers(node)):
                x = x + self._branch(sub_layer, x, position, own)
        for block, pair in own.items():
            self.keys[block].append(pair)
        return F.linear(apply_norm(x, self.weights.final_norm, self.spec), self.weights.head)[0]

    def _project(self, block: int, x: torch.Tensor, position: int):
        spec, weights = self.spec, self.weights.blocks[block]
        normed = apply_norm(x, weights.attention_norm, spec)
        query, key, value = (
            F.linear(normed, part.weight, part.bias).view(-1, spec.head_dim)
            for part in (weights.query, weights.key, weights.value)
        )
        tables = self.weights.rotations[0].tables(torch.tensor([position]))
        return rotate(query, *tables), rotate(key, *tables), value

    def _branch(self, sub_layer: int, x: torch.Tensor, position: int, own) -> torch.Tensor:
        spec, weights = self.spec, self.weights.blocks[sub_layer // 2]
        if sub_layer % 2:
            normed = apply_norm(x, weights.mlp_norm, spec)
            inner = F.silu(F.linear(normed, weights.gate.weight)) * F.linear(normed, weights.up.weight)
            return F.linear(inner, weights.down.weight)
        query, key, value = self._project(sub_layer // 2, x, position)
        own[sub_layer // 2] = key, value
        seen = [*self.keys[sub_layer // 2], (key, value)]
        keys, values = (torch.stack([pair[i] for pair in seen], 1) for i in range(2))  # [kv_heads, seen, head_dim]
        keys, values = (part.repeat_interleave(spec.group_size, 0) for part in (keys, values))
        shares = torch.softmax((query[:, None] @ keys.transpose(1, 2)) * spec.head_dim**-0.5, -1)
        return F.linear((shares @ values).flatten()[None], weights.output.weight)


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("unit", ["block", "sub-layer"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "olmo2", "opt"])
def test_the_route_through_all_blocks_is_the_target(name, unit, backend):
    runtime, routes = runtime_of(name, backend), graph(unit)
    router = Router.along(routes, range(routes.num_nodes), 64, 4)
    rows = Rows.chain(DRAFTED, len(PROMPT))
    expected = runtime.forward(runtime.target, prefilled(runtime), rows)
    found = RoutedPlan(runtime, router).logits(prefilled(runtime), rows)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("passed_keys", ["masked", "projected"])
@pytest.mark.parametrize(("unit", "reuse"), [("block", 0), ("sub-layer", 0), ("block", 2), ("sub-layer", 1)])
def test_tokens_take_their_routes_and_see_what_those_before_left(unit, reuse, passed_keys, backend):
    runtime = runtime_of("llama", backend)
    for seed in range(4):
        router = random_router(graph(unit, reuse), seed)
        reference = Reference(runtime, router, passed_keys == "projected")
        expected = [reference.logits(len(PROMPT) + i, token) for i, token in enumerate(DRAFTED)]
        together, one_by_one = (RoutedPlan(runtime, router, passed_keys) for _ in range(2))
        cache, other = prefilled(runtime), prefilled(runtime)
        found = together.logits(cache, Rows.chain(DRAFTED, len(PROMPT)))
        assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-4)
        for i, token in enumerate(DRAFTED):
            alone = one_by_one.logits(other, Rows.chain([token], len(PROMPT) + i))
            assert torch.equal(alone[0], found[i])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("passed_keys", ["masked", "projected"])
@pytest.mark.parametrize(("unit", "reuse"), [("block", 0), ("sub-layer", 0), ("block", 2), ("sub-layer", 1)])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "olmo2", "opt"])
def test_the_engines_own_passes_are_those_that_the_host_steps_through(name, unit, reuse, passed_keys, threads):
    torch.set_num_threads(threads)
    runtime = runtime_of(name, "native")
    torch.set_num_threads(1)
    noise = ChoiceNoise(0.8, np.random.default_rng(0).gumbel(size=(6, 97)).astype(np.float32))
    for seed in range(3):
        router = random_router(graph(unit, reuse), seed)
        own = RoutedPlan(runtime, router, passed_keys)
        stepped = SteppedPasses(runtime, router, passed_keys, runtime.target)
        caches = prefilled(runtime), prefilled(runtime)
        for given in (None, noise):
            chains = [
                passes.draft_chain(cache, DRAFTED[:2], 0, 5, 3, NEVER, given)
                for passes, cache in zip((own, stepped), caches, strict=True)
            ]
            assert [found.tokens for found in chains[0]] == [found.tokens for found in chains[1]]
            for found, expected in zip(*chains, strict=True):
                assert found.probs == pytest.approx(expected.probs, rel=1e-5)
        tree = Rows.tree([40, 7, 61, 18, 7], [-1, 0, 0, 2, 1], len(PROMPT))
        logits = [passes.logits(cache, tree) for passes, cache in zip((own, stepped), caches, strict=True)]
        assert torch.equal(*logits)
        later = Rows.tree([40, 7, 61, 18, 7, 9, 3], [-1, 0, 0, 2, 1, 3, 4], len(PROMPT), 5)
        found = own.review(caches[0], later, 2, noise, [3, 3])
        expected = stepped.review(caches[1], later, 2, noise, [3, 3])
        assert [best.tokens for best in found] == [best.tokens for best in expected]


def test_windows_end_at_the_same_keys_on_every_route():
    runtime = build_runtime(tiny_model("gemma3"), backend="native")
    router = random_router(graph("sub-layer"), 3)
    caches, prompt = [runtime.new_cache(210) for _ in range(2)], [token % 97 for token in range(200)]
    for cache in caches:
        runtime.prefill(cache, prompt)
    tree = Rows.tree([40, 7, 61, 18, 7], [-1, 0, 0, 2, 1], len(prompt))
    own, stepped = RoutedPlan(runtime, router), SteppedPasses(runtime, router, "masked", runtime.target)
    assert torch.equal(own.logits(caches[0], tree), stepped.logits(caches[1], tree))


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_branches_of_a_tree_see_their_own_path_only(backend):
    runtime, router = runtime_of("llama", backend), random_router(graph("sub-layer"), 3)
    tokens, parents = [40, 7, 61, 18, 7], [-1, 0, 0, 2, 1]
    found = RoutedPlan(runtime, router).logits(prefilled(runtime), Rows.tree(tokens, parents, len(PROMPT)))
    for node in range(len(tokens)):
        path, at = [], node
        while at >= 0:
            path, at = [tokens[at], *path], parents[at]
        alone = RoutedPlan(runtime, router).logits(prefilled(runtime), Rows.chain(path, len(PROMPT)))
        assert_close(found[node], alone[-1], rtol=1e-4, atol=1e-4)


def test_a_route_ends_at_the_depth_bound():
    runtime, routes = runtime_of("llama", "torch"), graph("block", reuse=1, most_steps=5)
    router = Router.along(routes, [0], 64, 4)
    again = torch.tensor([[9.0, 0, 0, 0], [9.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 9.0, 0]])  # after block i, block i
    forever = replace(router, outputs_bias=again)
    passage = RoutedForward(runtime, routes).run(
        prefilled(runtime), Rows.chain([3], len(PROMPT)), lambda state, x, _: forever.destinations(state, x)
    )
    assert passage.runs.tolist() == [[5, 0, 0]]


def test_a_widened_target_is_routed_alike(tmp_path):
    from autodraft.runtime.widening import widen

    model, router = tiny_model("llama"), random_router(graph(), 5)
    write_router(router, tmp_path / "router.safetensors", 0.5)
    narrow, wide = (build_runtime(widen(model, factor), max_length=64, backend="torch") for factor in (1, 2))
    outputs = [
        RoutedPlan(runtime, read_router(tmp_path / "router.safetensors", runtime.spec)).logits(
            prefilled(runtime), Rows.chain(DRAFTED, len(PROMPT))
        )
        for runtime in (narrow, wide)
    ]
    assert_close(*outputs, rtol=1e-4, atol=1e-4)


def test_a_router_comes_back_from_its_file_and_others_are_refused(tmp_path):
    router, path = random_router(graph("sub-layer", 1)), tmp_path / "router.safetensors"
    write_router(router, path, 0.25)
    found = read_router(path)
    assert found.graph == router.graph and found.expected_cost == 0.25
    assert all(torch.equal(found.tensors()[name], value) for name, value in router.tensors().items())
    with pytest.raises(ProfileError, match="is for a target with 3 blocks"):
        read_router(path, build_runtime(tiny_model("llama", num_hidden_layers=2)).spec)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ProfileError, match="not a router"):
        read_router(path)


def test_impossible_graphs_are_refused():
    with pytest.raises(InputError, match="made of"):
        graph("head")
    with pytest.raises(InputError, match="reuse"):
        graph(reuse=7)
