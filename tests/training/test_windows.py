"""The window sampler: lengths follow the run's progress, and its state is complete."""

import torch

from autodraft.training.windows import WindowSampler


def sampler(tiny_data, tiny_corpus, tiny_config, edit_share=0.3):
    texts = [file.text for file in tiny_corpus.training]
    return WindowSampler(tiny_data.training, texts, tiny_data.tokenizer, tiny_config.phases, edit_share, seed=1)


def test_lengths_follow_progress(tiny_data, tiny_corpus, tiny_config):
    windows = sampler(tiny_data, tiny_corpus, tiny_config)
    early = {windows.draw(0.1, 256).shape for _ in range(20)}
    late = {windows.draw(0.9, 256).shape for _ in range(40)}
    assert early == {(8, 33)} and late == {(8, 33), (4, 65)}


def test_restored_sampler_continues_with_the_same_windows(tiny_data, tiny_corpus, tiny_config):
    first, second = (sampler(tiny_data, tiny_corpus, tiny_config) for _ in range(2))
    for _ in range(7):
        first.draw(0.6, 256)
    second.restore(first.state())
    for _ in range(60):  # long enough to pass the end of an epoch
        assert torch.equal(first.draw(0.6, 256), second.draw(0.6, 256))


def test_without_edits_an_epoch_sees_every_start_once(tiny_data, tiny_corpus, tiny_config):
    windows = sampler(tiny_data, tiny_corpus, tiny_config, edit_share=0.0)
    count = windows._num_starts
    rows = [tuple(windows.draw(0.0, 32)[0].tolist()) for _ in range(count)]
    expected = {tuple(tiny_data.training[256 * i : 256 * i + 33].tolist()) for i in range(count)}
    assert set(rows) == expected
