"""Routers in training: what is held fixed, what resumes, what is refused, and a world whose best routes are known."""

import json

import pytest
import torch

from autodraft.errors import InputError, TrainingError
from autodraft.measure.agreement import AgreementMeter
from autodraft.runtime import build_runtime
from autodraft.runtime.routed import RoutedForward
from autodraft.runtime.routing import RouteGraph, Router
from autodraft.training.radial.continuations import Continuations
from autodraft.training.radial.evaluate import node_costs, score_router
from autodraft.training.radial.learner import RouteLearner, Sampler
from autodraft.training.radial.static_routes import best_static_route, policy_along
from autodraft.training.radial.thrift import with_mean_cost
from autodraft.training.radial.trainer import RouterRecipe, RouterTrainer
from tests.runtime.tiny import tiny_model


@pytest.fixture(scope="module")
def runtime(one_thread):
    return build_runtime(tiny_model("llama", seed=7, tie_word_embeddings=False), max_length=64)


@pytest.fixture(scope="module")
def continuations(runtime) -> Continuations:
    prompts = torch.randint(97, (6, 5), generator=torch.Generator().manual_seed(0))
    return Continuations(runtime, prompts, 8)


def recipe(**changes) -> RouterRecipe:
    known = {"cost": 0.5, "unit": "sub-layer", "reuse": 0, "most_steps": 6, "width": 8, "start": (0, 1, 4)}
    return RouterRecipe(**{**known, "steps": 6, "rows_per_step": 12, "seed": 0, "identity": "tiny", **changes})


def test_everything_run_agrees_with_the_target_at_every_position(continuations):
    graph = RouteGraph(6, "block", 0, 3)
    score = score_router(continuations, Router.along(graph, range(3), 64, 4))
    assert (score.agreement, score.cost, score.blocks) == (1.0, 1.0, 3.0)
    assert score_router(continuations, Router.along(graph, [], 64, 4)).cost == 0.0


def test_windows_see_the_drafts_own_keys_and_agree_where_everything_is_run(runtime):
    prompts = torch.randint(97, (3, 5), generator=torch.Generator().manual_seed(1))
    windows = Continuations(runtime, prompts, 9, window=3)
    score = score_router(windows, Router.along(RouteGraph(6, "block", 0, 3), range(3), 64, 4))
    assert score.by_depth == (1.0, 1.0, 1.0)


def test_the_agreement_of_a_profile_is_complete_where_everything_is_run(runtime):
    meter = AgreementMeter(runtime, [[1, 2, 3], [4, 5]], 8)
    graph = RouteGraph(6, "sub-layer", 0, 6)
    for nodes, complete in ((range(6), True), ([], False)):
        routed, router = RoutedForward(runtime, graph), Router.along(graph, nodes, 64, 4)
        found = meter.measure_passes(lambda *where, routed=routed, router=router: routed.along(*where, router)[0])
        assert (found.top1_agreement == 1.0) == complete


def test_costs_are_shares_of_the_blocks(runtime):
    for unit in ("block", "sub-layer"):
        costs = node_costs(runtime.spec, RouteGraph(6, unit, 0, 6))
        assert float(costs.sum()) == pytest.approx(1.0)
        assert torch.equal(costs[: len(costs) // 3], costs[-(len(costs) // 3) :])


@pytest.mark.parametrize("reuse", [0, 1])
def test_a_resumed_training_is_the_uninterrupted_one(continuations, tmp_path, reuse):
    whole = RouterTrainer(continuations, continuations, recipe(reuse=reuse), tmp_path / "whole")
    whole.run()
    for _ in range(3):
        part = RouterTrainer(continuations, continuations, recipe(reuse=reuse), tmp_path / "parts")
        part.run(max_steps=2)
    assert part.step == 6 and part.curve == whole.curve
    for name, value in whole.router.tensors().items():
        assert torch.equal(part.router.tensors()[name], value)


def test_another_training_in_the_same_folder_is_refused(continuations, tmp_path):
    RouterTrainer(continuations, continuations, recipe(), tmp_path).run(max_steps=1)
    with pytest.raises(InputError, match=r"other settings \(cost 0.5, not 0.4\)"):
        RouterTrainer(continuations, continuations, recipe(cost=0.4), tmp_path)


def test_divergence_keeps_the_last_good_checkpoint(continuations, tmp_path, monkeypatch):
    RouterTrainer(continuations, continuations, recipe(), tmp_path).run(max_steps=2)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    trainer = RouterTrainer(continuations, continuations, recipe(), tmp_path)
    monkeypatch.setattr("autodraft.training.radial.learner._LEARNING_RATE", float("inf"))
    with pytest.raises(TrainingError, match="diverged at step 2"):
        trainer.run()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_thrift_meets_a_mean_cost_or_says_that_it_cannot(continuations):
    graph = RouteGraph(6, "sub-layer", 0, 6)
    costs = node_costs(continuations.runtime.spec, graph)
    router = Router.along(graph, range(6), 64, 8)
    outputs = torch.randn(router.outputs.shape, generator=torch.Generator().manual_seed(2))
    router = Router(graph, router.inputs, router.inputs_bias, outputs, router.outputs_bias)
    for cost in (0.3, 0.6):
        assert cost - 0.15 < with_mean_cost(router, continuations, costs, cost).expected_cost <= cost
    close = with_mean_cost(router, continuations, costs, 0.6)
    kept = with_mean_cost(close, continuations, costs, close.expected_cost + 0.009)
    assert torch.equal(kept.outputs_bias, close.outputs_bias) and kept.expected_cost == close.expected_cost
    endless = Router.along(RouteGraph(6, "block", 3, 9), range(3), 64, 4, lead=1e6)  # nothing outweighs that
    with pytest.raises(TrainingError, match="as cheap as"):
        with_mean_cost(endless, continuations, node_costs(continuations.runtime.spec, endless.graph), 0.5)


def test_the_best_static_route_is_the_one_of_brute_force(continuations):
    graph = RouteGraph(6, "block", 0, 3)
    costs = node_costs(continuations.runtime.spec, graph)
    found = best_static_route(continuations, graph, costs, 2 / 3, swaps=30)

    def agreement(nodes) -> float:
        runtime = continuations.runtime
        plan = runtime.plan(policy_along(nodes, graph))
        trial = continuations.trial(range(len(continuations)), stride=2)
        return float((runtime.forward(plan, continuations.cache, trial.rows).argmax(-1) == trial.wanted).float().mean())

    assert agreement(found) == max(agreement(nodes) for nodes in ((0, 1), (0, 2), (1, 2)))


def test_the_learner_finds_routes_that_depend_on_the_token():
    """Tokens are of two kinds; one needs block 0, the other block 1, and nobody needs block 2."""
    graph, costs = RouteGraph(6, "block", 0, 3), torch.full((3,), 1 / 3)
    learner = RouteLearner(Router.along(graph, range(3), 4, 8, lead=2.0), costs)
    generator, count = torch.Generator().manual_seed(0), 256
    for step in range(150):
        kind = torch.randint(2, (count,), generator=generator)
        runs, decisions = walk(graph, Sampler(learner.router, generator), kind)
        needed = runs.gather(1, kind[:, None])[:, 0].float()
        learner.learn(decisions, needed, runs, 1 / 3, step / 150)
    runs, _ = walk(graph, lambda state, x, _: learner.router.destinations(state, x), torch.arange(2))
    assert runs.tolist() == [[1, 0, 0], [0, 1, 0]]


def walk(graph: RouteGraph, choose, kind: torch.Tensor):
    """Routes of tokens whose stream says nothing but their kind."""
    stream = torch.nn.functional.one_hot(kind, 4).float()
    runs, at = torch.zeros((len(kind), 3), dtype=torch.long), choose(0, stream, torch.arange(len(kind))).clone()
    for node in range(3):
        here = (at == node).nonzero()[:, 0]
        if len(here):
            runs[here, node] = 1
            at[here] = choose(node + 1, stream[here], here)
    return runs, getattr(choose, "decisions", None)


def test_the_command_writes_a_profile_that_decodes_with_the_router_and_notices_another_one(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from autodraft.cli.entry import app
    from autodraft.profile import DraftProfile
    from autodraft.runtime.router_file import read_router

    monkeypatch.setattr("autodraft.training.radial.run.HELD_OUT_SEQUENCES", 2)
    monkeypatch.setattr("autodraft.training.radial.routed_draft._NUM_PROMPTS", 2)
    policy = "FF FF F. F. F. FF FF F. F. F. F. F. .. F. F. FF | head 16"
    arguments = ["train-router", "--steps", "2", "--start", policy, "--cost", "0.6", "-o", str(tmp_path)]
    small = ["--set", "sequences=4", "--set", "rows_per_step=32"]
    result = CliRunner().invoke(app, [*arguments, *small])
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "router.json").read_text())
    assert read_router(tmp_path / "router.safetensors").graph.unit == "sub-layer"
    assert summary["held_out"]["cost"] <= 0.75
    profile = DraftProfile.load(tmp_path / "profile.json")
    draft, prior = profile.cascade.drafts[0], profile.priors.drafts[0]
    assert draft.router.sha256 == summary["sha256"]
    assert {1, 16} <= set(prior.cost_by_rows) and prior.cost_by_rows[1] == prior.cost
    assert min(prior.cost_by_rows.values()) > 0
    decode = ["generate", "--profile", str(tmp_path / "profile.json"), "--prompt", "x = ", "-n", "12"]
    decoded = CliRunner().invoke(app, decode)
    assert decoded.exit_code == 0, decoded.output
    plain = CliRunner().invoke(app, ["generate", "--model", "llama", "--prompt", "x = ", "-n", "12"])
    assert decoded.stdout == plain.stdout
    file = tmp_path / "router.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    tampered = CliRunner().invoke(app, decode)
    assert tampered.exit_code == 2 and tampered.stderr.count("\n") == 1 and "checksum" in tampered.stderr
    refused = CliRunner().invoke(app, ["train-router", "--cost", "1.5"])
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1
