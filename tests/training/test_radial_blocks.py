"""Blocks that are refitted together with a router: the same pass as in decoding, what learns, what resumes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from autodraft.errors import InputError
from autodraft.fitting.sub_layers import DraftView, SubLayers
from autodraft.policy import FULL_BITS, DraftPolicy
from autodraft.router_job import router_job
from autodraft.runtime import Rows, build_runtime
from autodraft.runtime.draft_weights import DraftWeights
from autodraft.runtime.routed_plan import RoutedPlan
from autodraft.runtime.routing import RouteGraph, Router
from autodraft.training.radial.continuations import Continuations
from autodraft.training.radial.lessons import FixedBlocks, TrainedBlocks
from autodraft.training.radial.recipe import RouterRecipe
from autodraft.training.radial.routed_sub_layers import RoutedSubLayers
from autodraft.training.radial.trainer import RouterTrainer
from autodraft.training.texts import TextStreams
from tests.runtime.tiny import tiny_model

COMMITTED, LENGTH = 4, 14


@pytest.fixture(scope="module")
def runtime(one_thread):
    return build_runtime(tiny_model("llama", seed=7, tie_word_embeddings=False), max_length=64, backend="torch")


@pytest.fixture(scope="module")
def continuations(runtime) -> Continuations:
    prompts = torch.randint(97, (4, 5), generator=torch.Generator().manual_seed(0))
    return Continuations(runtime, prompts, 8)


def recipe(**changes) -> RouterRecipe:
    known = {"cost": 0.5, "unit": "sub-layer", "reuse": 0, "most_steps": 6, "width": 8, "start": (0, 1, 4)}
    learning = {"bits": 4, "trains_blocks": True, "learning_rate": 0.01}
    return RouterRecipe(
        **{**known, "steps": 6, "rows_per_step": 512, "seed": 0, "identity": "tiny", **learning, **changes}
    )


def streams() -> TextStreams:
    tokens = np.random.default_rng(0).integers(0, 97, 3000).astype(np.int32)
    return TextStreams(tokens[:2000], tokens[2000:], "noise")


def lesson(runtime, of: RouterRecipe) -> TrainedBlocks:
    return TrainedBlocks(runtime, runtime.spec, runtime.weights, streams(), of)


def random_router(graph: RouteGraph, seed: int) -> Router:
    router = Router.along(graph, [], 64, 8, seed=seed, lead=0.0)
    outputs = torch.randn(router.outputs.shape, generator=torch.Generator().manual_seed(seed + 1))
    return replace(router, outputs=2 * outputs)


@pytest.mark.parametrize("bits", [4, FULL_BITS])
@pytest.mark.parametrize(("unit", "most_steps"), [("block", 3), ("sub-layer", 6), ("sub-layer", 2)])
@pytest.mark.parametrize("name", ["llama", "qwen3", "opt"])
def test_tokens_are_routed_in_training_as_they_are_in_decoding(name, unit, most_steps, bits, one_thread):
    """Independent keys: the runtime keeps lists of slots, the training masks a square."""
    runtime = build_runtime(tiny_model(name), max_length=64, backend="torch")
    spec, graph = runtime.spec, RouteGraph(6, unit, 0, most_steps)
    tokens = torch.randint(97, (2, LENGTH), generator=torch.Generator().manual_seed(3))
    keys = SubLayers(spec, runtime.weights, {}).logits_and_keys(tokens)[1]
    view = DraftView.windowed(keys, LENGTH, LENGTH, COMMITTED)
    matrices = {
        f"blocks.{block}.{part}": 1.1 * getattr(runtime.weights.blocks[block], part).weight
        for block in range(3)
        for part in ("query", "key", "value", "output", *(("gate",) if spec.gated else ()), "up", "down")
    }
    blocks = runtime.compiled(DraftPolicy.uniform(3, bits), DraftWeights.unsaved(matrices))
    for seed in range(3):
        router = random_router(graph, seed)
        found, _ = RoutedSubLayers(spec, runtime.weights, matrices, bits=bits).routed(
            tokens, view, graph, lambda state, stream, _, router=router: router.destinations(state, stream)
        )
        for number, row in enumerate(tokens.tolist()):
            cache = runtime.new_cache()
            runtime.prefill(cache, row[:COMMITTED])
            rows = Rows.chain(row[COMMITTED:], COMMITTED)
            expected = RoutedPlan(runtime, router, blocks=blocks).logits(cache, rows)
            assert_close(found[number, COMMITTED:], expected, rtol=1e-3, atol=1e-3)


def test_blocks_learn_what_their_routes_ask_of_them(runtime, continuations, tmp_path):
    of = recipe(steps=40, width=4)
    learnt = lesson(runtime, of)
    losses = []

    def tried(*arguments, original=learnt.tried):
        outcome = original(*arguments)
        losses.append(outcome.loss)
        return outcome

    learnt.tried = tried  # type: ignore[method-assign]
    RouterTrainer(continuations, continuations, of, tmp_path, lesson=learnt).run()
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])


def test_a_resumed_training_of_blocks_is_the_uninterrupted_one(runtime, continuations, tmp_path):
    whole = lesson(runtime, recipe())
    trainer = RouterTrainer(continuations, continuations, recipe(), tmp_path / "whole", lesson=whole)
    trainer.run()
    for _ in range(3):
        part = lesson(runtime, recipe())
        resumed = RouterTrainer(continuations, continuations, recipe(), tmp_path / "parts", lesson=part)
        resumed.run(max_steps=2)
    assert resumed.step == 6 and resumed.curve == trainer.curve
    assert all(torch.equal(part.matrices[name], matrix) for name, matrix in whole.matrices.items())
    assert any(not torch.equal(matrix, start) for matrix, start in zip(
        whole.matrices.values(), lesson(runtime, recipe()).matrices.values(), strict=True
    ))  # fmt: skip


def test_routes_through_rounded_blocks_are_judged_with_them(runtime, continuations, tmp_path):
    """Everything run at 16 bits is the target; at 4 bits it is not."""
    everything = {"start": tuple(range(6)), "cost": 1.0, "steps": 1, "trains_blocks": False, "rows_per_step": 16}
    agreements = {}
    for bits in (4, FULL_BITS):
        of = recipe(bits=bits, **everything)
        fixed = FixedBlocks(continuations, of)
        trainer = RouterTrainer(continuations, continuations, of, tmp_path / str(bits), lesson=fixed)
        agreements[bits] = trainer.finished()[1].agreement
    assert agreements[4] < agreements[FULL_BITS] == 1.0


def test_blocks_are_not_refitted_on_routes_that_go_back():
    with pytest.raises(InputError, match="forward only"):
        router_job({"train_blocks": True, "reuse": 1})


def test_the_command_refits_blocks_and_decodes_through_them_without_changing_a_token(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from autodraft.cli.entry import app
    from autodraft.profile import DraftProfile

    monkeypatch.setattr("autodraft.training.radial.run.HELD_OUT_SEQUENCES", 2)
    monkeypatch.setattr("autodraft.training.radial.routed_draft._NUM_PROMPTS", 2)
    policy = "FF FF F. F. F. FF FF F. F. F. F. F. .. F. F. FF | head 16"
    arguments = ["train-router", "--train-blocks", "--bits", "4", "--steps", "2", "--start", policy, "--cost", "0.6"]
    small = ["--set", "sequences=4", "--set", "rows_per_step=256", "-o", str(tmp_path)]
    result = CliRunner().invoke(app, [*arguments, *small])
    assert result.exit_code == 0, result.output
    profile = DraftProfile.load(tmp_path / "profile.json")
    draft = profile.cascade.drafts[0]
    assert draft.bits == 4 and draft.weights.file == "blocks.safetensors"
    assert profile.priors.drafts[0].extra_bytes > (tmp_path / "router.safetensors").stat().st_size
    decode = ["generate", "--profile", str(tmp_path / "profile.json"), "--prompt", "x = ", "-n", "12"]
    decoded = CliRunner().invoke(app, decode)
    assert decoded.exit_code == 0, decoded.output
    plain = CliRunner().invoke(app, ["generate", "--model", "llama", "--prompt", "x = ", "-n", "12"])
    assert decoded.stdout == plain.stdout
    widened = CliRunner().invoke(app, [*arguments, *small, "--widen", "2"])
    assert widened.exit_code == 0, widened.output
    wide = DraftProfile.load(tmp_path / "profile.json")
    assert wide.target.widen == 2 and wide.cascade.drafts[0].weights.file == "blocks.safetensors"
    decoded = CliRunner().invoke(app, decode)
    assert decoded.exit_code == 0 and decoded.stdout == plain.stdout
    file = tmp_path / "blocks.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    tampered = CliRunner().invoke(app, decode)
    assert tampered.exit_code == 2 and tampered.stderr.count("\n") == 1 and "checksum" in tampered.stderr
