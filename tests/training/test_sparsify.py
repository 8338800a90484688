"""`sparsify` as a job: smaller targets that load anywhere, refitted drafts, resumption, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from autodraft.decoding import CascadeDecoder
from autodraft.errors import InputError, ProfileError, TrainingError
from autodraft.policy import DraftPolicy
from autodraft.policy_text import decode_policy
from autodraft.profile import DraftProfile
from autodraft.runtime import ModelSpec, Rows, TransformerRuntime, build_runtime, load_hf_model, load_model
from autodraft.runtime.draft_weights import target_matrices
from autodraft.runtime.hf_weights import read_weights
from autodraft.sparsify_job import SparsifyJob, sparsify_job
from autodraft.training.sparse_target import sparse_model
from autodraft.training.sparsifier import Recipe, Sparsifier
from autodraft.training.sparsify import TRAINING_FOLDER, sparsify
from autodraft.training.texts import TextStreams, load_streams
from tests.runtime.tiny import tiny_model

TEXT = "".join(f"def function_{n}(value, other):\n    return value + other * {n}\n\n\n" for n in range(150))
TOKENS = [5, 9, 33, 2, 71, 12, 40]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.py"
    path.write_text(TEXT)
    return path


@pytest.fixture
def job(tiny_model_folder, text, tmp_path):
    def make(**settings) -> SparsifyJob:
        common = {"steps": 6, "tokens_per_step": 64, "window_tokens": 32, "output": tmp_path / "out"}
        return sparsify_job({"model": str(tiny_model_folder), "text": (text,), **common, **settings})

    return make


def logits(runtime: TransformerRuntime, policy: DraftPolicy) -> torch.Tensor:
    return runtime.forward(runtime.plan(policy), runtime.new_cache(), Rows.chain(TOKENS, 0))


@pytest.mark.parametrize(
    "name",
    [
        *("llama", "llama-bias", "qwen3", "phi3", "smollm3", "granite", "nemotron", "starcoder2", "opt", "gpt2"),
        *("qwen3-window", "gemma", "gemma3", "exaone4", "olmo3", "glm4"),
        *("olmo", "vaultgemma", "hyperclovax", "hunyuan", "nanochat"),
    ],
)
def test_a_removed_sub_layer_is_a_skipped_one_here_and_in_transformers(name, tmp_path):
    kept = {0, 4, 5}  # attention of the first block, nothing of the second, all of the third
    policy = decode_policy("F. .. FF | head 16")
    whole = tiny_model(name)
    spec = ModelSpec.from_config(whole.config)
    expected = logits(build_runtime(whole), policy)
    matrices = target_matrices(read_weights(whole, spec), spec, kept)
    sparse_model(tiny_model(name), kept, matrices).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert loaded.config.num_hidden_layers == 2
    runtime = build_runtime(loaded)
    assert torch.equal(logits(runtime, DraftPolicy.uniform(2)), expected)
    with torch.no_grad():
        assert torch.allclose(loaded(torch.tensor([TOKENS])).logits[0], expected, atol=2e-3)


def test_a_smaller_target_is_written_with_its_figures_and_loads(job):
    settings = job(keep=0.5)
    report = sparsify(settings)
    folder = settings.output_folder
    assert len(report.kept) == 2 and list(report.qualities) == ["before", "after removal", "after refit"]
    assert report.qualities["before"].divergence == pytest.approx(0.0, abs=1e-6)
    document = json.loads((folder / "sparsify.json").read_text())
    assert document["kept"] == list(report.kept) and document["pattern"] == report.pattern
    card = (folder / "README.md").read_text()
    assert "different model" in card and report.pattern in card
    loaded = load_model(str(folder))
    blocks = {index // 2 for index in report.kept}
    assert loaded.runtime.spec.num_blocks == len(blocks)
    assert len(loaded.runtime.weights.silent_sub_layers) == 2 * len(blocks) - 2


def test_a_refitted_draft_is_a_profile_for_the_unchanged_target(job):
    settings = job(as_draft=True, policy="F8 .F | head 16")
    report = sparsify(settings)
    assert report.kept == (0, 1, 3) and report.prediction is not None
    profile = DraftProfile.load(settings.output_folder / "profile.json")
    assert profile.cascade.policies == (decode_policy("F8 .F | head 16"),)
    loaded = load_model(settings.model)
    plain = CascadeDecoder(loaded.runtime).generate(TOKENS, max_new_tokens=24)
    assert CascadeDecoder.from_profile(loaded, profile).generate(TOKENS, max_new_tokens=24).tokens == plain.tokens
    weights = settings.output_folder / "draft.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    tampered = DraftProfile.load(settings.output_folder / "profile.json")
    with pytest.raises(ProfileError, match="checksum differs"):
        CascadeDecoder.from_profile(load_model(settings.model), tampered)


def test_a_draft_of_a_widened_target_is_the_widened_draft(job, tmp_path):
    policy = "F. .F | head 16"
    narrow = sparsify(job(as_draft=True, policy=policy, output=tmp_path / "narrow"))
    shutil.copytree(tmp_path / "narrow" / TRAINING_FOLDER, tmp_path / "wide" / TRAINING_FOLDER)
    wide = sparsify(job(as_draft=True, policy=policy, widen=2, output=tmp_path / "wide"))
    assert wide.qualities == narrow.qualities
    found = []
    for folder, widen in (("narrow", 1), ("wide", 2)):
        runtime = load_model(narrow.settings["model"], widen=widen).runtime
        draft = DraftProfile.load(tmp_path / folder / "profile.json").cascade.drafts[0]
        plan = runtime.plan(draft.policy, draft.weights)
        found.append(runtime.forward(plan, runtime.new_cache(), Rows.chain(TOKENS, 0)))
    assert torch.allclose(*found, atol=1e-3)


def trained(folder: Path, streams: TextStreams, seed: int = 0, **changes) -> Sparsifier:
    model = tiny_model("llama", seed, vocab_size=300)
    spec = ModelSpec.from_config(model.config)
    settings = {"num_kept": 3, "kept": None, "as_draft": True, "steps": 10, "learning_rate": 4e-3, **changes}
    recipe = Recipe(**settings, tokens_per_step=64, window_tokens=32, seed=0, identity="")
    return Sparsifier(spec, read_weights(model, spec), streams, recipe, folder)


@pytest.fixture(scope="module")
def streams(tiny_model_folder, text) -> TextStreams:
    return load_streams(load_model(str(tiny_model_folder)).tokenizer, [text], 32)


@pytest.mark.parametrize("stop", [2, 7])
@pytest.mark.parametrize("as_draft", [False, True])
def test_a_stopped_run_ends_the_same(stop, as_draft, streams, tmp_path):
    whole, stopped = (trained(tmp_path / name, streams, as_draft=as_draft) for name in ("whole", "stopped"))
    whole.run()
    stopped.run(max_steps=stop)
    resumed = trained(tmp_path / "stopped", streams, as_draft=as_draft)
    assert resumed.step == stop
    resumed.run()
    assert resumed.kept == whole.kept and len(whole.kept) == 3
    assert resumed.qualities == whole.qualities
    assert all(torch.equal(matrix, resumed.matrices[name]) for name, matrix in whole.matrices.items())


def test_the_refit_brings_a_pruned_model_back_towards_the_target(streams, tmp_path):
    run = trained(tmp_path, streams, kept=(0, 1, 3, 4, 5), steps=40)
    run.run()
    assert run.qualities["after refit"].divergence < 0.7 * run.qualities["after removal"].divergence


def test_a_draft_that_learns_at_few_bits_is_better_at_them(streams, tmp_path):
    everything = {"kept": tuple(range(6)), "num_kept": 6, "steps": 40, "learning_rate": 1e-3}
    run = trained(tmp_path, streams, bits=4, **everything)
    run.run()
    assert run.qualities["before"].divergence > 0  # rounded
    assert run.qualities["after refit"].divergence < 0.7 * run.qualities["before"].divergence


def test_divergence_is_one_line_and_leaves_the_last_good_checkpoint(streams, tmp_path):
    trained(tmp_path, streams, steps=60, learning_rate=1e38).run(max_steps=0)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(TrainingError, match="diverged by step"):
        trained(tmp_path, streams, steps=60, learning_rate=1e38).run()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_another_job_does_not_continue_a_training(streams, tmp_path):
    trained(tmp_path, streams).run(max_steps=1)
    with pytest.raises(InputError, match="other settings"):
        trained(tmp_path, streams, steps=11)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0}, "keep is 0"),
        ({"keep": 1.5}, "keep is 1.5"),
        ({}, "by 'keep' or by 'policy'"),
        ({"keep": 0.5, "policy": "FF FF | head 16"}, "by 'keep' or by 'policy'"),
        ({"keep": 0.5, "bits": 4}, "add as_draft"),
        ({"keep": 0.5, "widen": 2}, "is for drafts"),
        ({"keep": 0.5, "step": 3}, "did you mean steps"),
    ],
)
def test_jobs_that_cannot_be_are_refused(settings, message, job):
    with pytest.raises(InputError, match=message):
        job(**settings)


def test_budgets_and_texts_that_do_not_fit_the_model_are_refused(job, tmp_path):
    with pytest.raises(InputError, match="nothing of the 4 sub-layers"):
        sparsify(job(keep=0.1))
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(InputError, match="too little text"):
        sparsify(job(keep=0.5, text=(tmp_path / "short.txt",)))
    with pytest.raises(InputError, match=r"missing\.txt"):
        sparsify(job(keep=0.5, text=(tmp_path / "missing.txt",)))


def test_what_is_held_out_is_no_training_text(text, tiny_model_folder):
    streams = load_streams(load_model(str(tiny_model_folder)).tokenizer, [text], 32)
    assert len(streams.held_out) == pytest.approx(0.05 * len(TEXT), abs=4)
    assert len(streams.training) + len(streams.held_out) == pytest.approx(len(TEXT), abs=4)
    assert streams.windows(3, 32, 0, 5).shape == (3, 33)
    assert torch.equal(streams.windows(3, 32, 0, 5), streams.windows(3, 32, 0, 5))
    assert load_hf_model(load_model(str(tiny_model_folder))).config.num_hidden_layers == 2
