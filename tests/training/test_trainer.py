"""A tiny run: it learns, it resumes where it stopped, and its forward pass is the model's own."""

import math
import random

import pytest
import torch

from autodraft.training import checkpoint
from autodraft.training.config import TrainConfig
from autodraft.training.evaluate import most_likely, self_agreement_curve
from autodraft.training.forward import SublayerForward
from autodraft.training.optim import lr_share
from autodraft.training.trainer import Trainer, choose_skipped


@pytest.fixture
def start(tiny_config, tiny_data, tiny_corpus):
    texts = [file.text for file in tiny_corpus.training]
    return lambda folder: Trainer(tiny_config, tiny_data, texts, folder, torch.device("cpu"))


def assert_same_model(one: Trainer, other: Trainer) -> None:
    for name, weight in one.model.state_dict().items():
        assert torch.equal(weight, other.model.state_dict()[name]), name


def test_a_run_lowers_the_loss_and_a_stopped_one_ends_the_same(start, tmp_path):
    whole, stopped = start(tmp_path / "whole"), start(tmp_path / "stopped")
    whole.run()
    assert whole.counters.step == 40 and whole.progress == 1.0
    held_out = whole.counters.curve[-1][2]
    assert held_out < 0.6 * math.log(320)

    stopped.run(max_steps=15)
    resumed = start(tmp_path / "stopped")
    assert resumed.counters.step == 15 and resumed.progress == pytest.approx(15 / 40)
    resumed.run()
    assert resumed.counters.step == 40
    assert_same_model(whole, resumed)


def test_a_run_that_dies_leaves_a_whole_checkpoint(start, tmp_path):
    trainer = start(tmp_path)
    trainer.run(max_steps=3)
    (tmp_path / f"{checkpoint.FILE_NAME}.tmp").write_bytes(b"half a checkpoint")
    resumed = start(tmp_path)
    assert resumed.counters.step == 3
    assert_same_model(trainer, resumed)


def test_a_finished_run_trains_no_further(start, tmp_path):
    start(tmp_path).run()
    again = start(tmp_path)
    again.run()
    assert again.counters.step == 40


def test_forward_is_the_hugging_face_model(start, tmp_path):
    trainer = start(tmp_path)
    trainer.run(max_steps=5)
    tokens = torch.randint(0, 320, (2, 64))
    with torch.no_grad():
        ours = trainer.eager.logits(tokens).float()
        theirs = trainer.model(tokens).logits
    assert torch.allclose(ours, theirs, atol=0.02 * float(theirs.abs().max()))


def test_self_agreement(start, tmp_path):
    trainer = start(tmp_path)
    trainer.run(max_steps=5)
    tokens = torch.randint(0, 320, (4, 64))
    forward = SublayerForward(trainer.model, trainer.config.shape)
    assert torch.equal(most_likely(forward, tokens), trainer.eager.logits(tokens).argmax(-1))
    curve = self_agreement_curve(forward, tokens[:2], tokens[2:])
    assert list(curve) == ["2", "4"] and all(0.0 <= share <= 1.0 for share in curve.values())


def test_layer_dropout_rises_with_depth(start, tmp_path):
    rng = random.Random(0)
    draws = [choose_skipped(10, 0.4, rng) for _ in range(4000)]
    rates = [sum(i in draw for draw in draws) / len(draws) for i in range(10)]
    assert rates[0] == 0.0
    assert all(abs(rate - 0.4 * i / 9) < 0.04 for i, rate in enumerate(rates))


def test_schedule_warms_up_and_ends_at_its_floor():
    config = TrainConfig(warmup_share=0.1, final_lr_share=0.05)
    assert lr_share(0.05, config) == pytest.approx(0.5)
    assert lr_share(0.1, config) == pytest.approx(1.0)
    assert lr_share(1.0, config) == pytest.approx(0.05)
    shares = [lr_share(p / 100, config) for p in range(10, 101)]
    assert shares == sorted(shares, reverse=True)


def test_configurations_that_cannot_work_are_refused(tiny_config):
    recipe = tiny_config.recipe()
    assert TrainConfig.from_recipe(recipe) == tiny_config
    for change in (
        {"layer_dropout": 1.0},
        {"tokens_per_step": 100},
        {"phases": [{"start": 0, "weights": {128: 1}}]},
    ):
        with pytest.raises(ValueError):
            TrainConfig.from_recipe({**recipe, **change})
