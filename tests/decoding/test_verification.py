"""Verification gives the target's own tokens: by hand-written logits, and by enumerating every random choice."""

import itertools
from collections import defaultdict

import pytest
import torch

from autodraft.decoding import TokenTree, verify_greedy, verify_sampled

TREE = TokenTree((9, 1, 2, 3, 4), (-1, 0, 1, 0, 3))  # root -> 1 -> 2, root -> 3 -> 4


@pytest.mark.parametrize(
    ("argmaxes", "path", "bonus_token"),
    [
        ([5, 0, 0, 0, 0], [0], 5),  # never
        ([1, 2, 7, 0, 0], [0, 1, 2], 7),  # always, first branch
        ([3, 2, 7, 4, 6], [0, 3, 4], 6),  # always, second branch
        ([1, 4, 7, 4, 6], [0, 1], 4),  # the bonus token is no child here although it is one elsewhere
    ],
)
def test_greedy_accepts_the_path_of_argmaxes(argmaxes, path, bonus_token):
    logits = torch.nn.functional.one_hot(torch.tensor(argmaxes), 10).float()
    assert verify_greedy(TREE, logits) == (path, bonus_token)
    assert verify_sampled(TREE, logits.double(), [0.1, 0.9, 0.5]) == (path, bonus_token)


class World:
    """A target with a random distribution after every context of up to two tokens, and cells of equal choices.

    The verification's only random choices are one uniform number per output position. `cells[position]` cuts [0, 1) at
    every value of every distribution function at that position, so that within a cell all choices are the same.
    """

    def __init__(self, vocab_size, seed, sharpness):
        generator = torch.Generator().manual_seed(seed)
        self.probs = {}
        self.cells = []
        for position in range(3):
            cuts = {0.0, 1.0}
            for context in itertools.product(range(vocab_size), repeat=position):
                logits = torch.randn(vocab_size, generator=generator, dtype=torch.float64) * sharpness
                self.probs[context] = torch.softmax(logits, -1)
                cuts.update(self.probs[context].cumsum(-1).clamp(max=1.0).tolist())
            edges = sorted(cuts)
            self.cells.append(
                [((low + high) / 2, high - low) for low, high in itertools.pairwise(edges) if high - low > 1e-14]
            )

    def decode(self, propose, uniforms):
        """Two tokens by drafting and verifying."""
        output = []
        while len(output) < 2:
            tree = propose(tuple(output), 2 - len(output))
            contexts = [(*output, *(tree.tokens[node] for node in tree.path(n)[1:])) for n in range(len(tree))]
            target_probs = torch.stack([self.probs[context] for context in contexts])
            path, bonus_token = verify_sampled(tree, target_probs, uniforms[len(output) :])
            output += [*(tree.tokens[node] for node in path[1:]), bonus_token]
        return tuple(output[:2])


def _chain(context, depth):
    return TokenTree.chain(0, [(sum(context) + step) % 4 for step in range(1, depth + 1)])


def _tree(context, depth):
    """Two children of the root, and below the first, where there is room, two more; depends on the context."""
    first = (1 + sum(context)) % 4
    if depth == 1:
        return TokenTree((0, first, (first + 2) % 4), (-1, 0, 0))
    return TokenTree((0, first, 3, 1, (first + 1) % 4), (-1, 0, 1, 1, 0))


def _nothing(context, depth):
    return TokenTree.root_only(0)


@pytest.mark.parametrize("propose", [_nothing, _chain, _tree])
@pytest.mark.parametrize("sharpness", [0.5, 2.0])
def test_every_sequence_has_exactly_the_targets_probability(propose, sharpness):
    world = World(4, seed=11, sharpness=sharpness)
    found = defaultdict(float)
    for cells in itertools.product(*world.cells):
        uniforms = [middle for middle, _ in cells]
        weight = cells[0][1] * cells[1][1] * cells[2][1]
        found[world.decode(propose, uniforms)] += weight
    for sequence in itertools.product(range(4), repeat=2):
        expected = world.probs[()][sequence[0]] * world.probs[sequence[:1]][sequence[1]]
        assert found[sequence] == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("propose", [_chain, _tree])
def test_the_same_numbers_give_the_same_tokens_whatever_was_drafted(propose):
    world = World(4, seed=2, sharpness=1.0)
    numbers = torch.rand(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    assert [world.decode(propose, row) for row in numbers] == [world.decode(_nothing, row) for row in numbers]
