"""Exactness by enumeration: decoding with every noise out of a finite set, instead of with drawn noise.

If speculative output is autoregressive output for every noise vector, it is equal in distribution whatever law the
noise has, Gumbel's included.
"""

import itertools
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np

from autodraft.decoding import choice


def every_noise(vocab_size, positions, values):
    """All noise of `positions` vectors with entries out of `values`. float32 [positions, vocab]"""
    for entries in itertools.product(values, repeat=positions * vocab_size):
        yield np.array(entries, dtype=np.float32).reshape(positions, vocab_size)


class GivenNoise:
    """A noise stream of given vectors; zeros after the last one."""

    def __init__(self, rows):
        self._given = rows
        self._released = 0

    def rows(self, first_position, count):
        assert first_position >= self._released
        padded = np.zeros((first_position + count, self._given.shape[1]), dtype=np.float32)
        padded[: len(self._given)] = self._given[: len(padded)]
        return padded[first_position:]

    def release(self, position):
        self._released = position


@contextmanager
def given_noise(rows):
    """Generations within draw the noise `rows`, whatever their seed."""
    with patch.object(choice, "noise_stream", lambda seed, vocab_size, device: GivenNoise(rows)):
        yield


def outputs(make_decoder, prompt, noises, num_tokens, sampling):
    """What a decoder generates with each noise, and how many drafted tokens it accepted in all."""
    decoder = make_decoder()
    tokens, accepted = [], 0
    for noise in noises:
        with given_noise(noise):
            generation = decoder.generate(prompt, max_new_tokens=num_tokens, sampling=sampling)
        tokens.append(tuple(generation.tokens))
        accepted += generation.stats.accepted_tokens
    return tokens, accepted
