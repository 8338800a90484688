"""Verification gives the target's own tokens: by hand-written logits, and by enumerating trees, choices and noise."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autodraft.decoding import TokenTree, verify_choices, verify_sampled
from autodraft.decoding.sampling import choose
from tests.decoding.enumeration import every_noise
from tests.decoding.trees import token_trees

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
def test_the_path_of_argmaxes_is_accepted(argmaxes, path, bonus_token):
    assert verify_choices(TREE, argmaxes) == (path, bonus_token)
    asked = []
    assert verify_sampled(TREE, lambda node, depth: asked.append((node, depth)) or argmaxes[node]) == (
        path,
        bonus_token,
    )
    assert asked == [(node, depth) for depth, node in enumerate(path)]


@given(token_trees(vocab_size=4), st.data())
def test_asking_on_demand_or_beforehand_is_the_same(tree, data):
    choices = data.draw(st.lists(st.integers(0, 3), min_size=len(tree), max_size=len(tree)))
    depths = tree.depths

    def choose_at(node, depth):
        assert depth == depths[node]
        return choices[node]

    assert verify_sampled(tree, choose_at) == verify_choices(tree, choices)


def _every_tree(vocab_size, num_nodes):
    for tokens in itertools.product(range(vocab_size), repeat=num_nodes - 1):
        for parents in itertools.product(*(range(node) for node in range(1, num_nodes))):
            if len(set(zip(parents, tokens, strict=True))) == num_nodes - 1:
                yield TokenTree((0, *tokens), (-1, *parents))


@pytest.mark.parametrize("num_nodes", [1, 2, 3, 4])
def test_every_tree_with_every_choice_emits_the_autoregressive_tokens(num_nodes):
    for tree in _every_tree(3, num_nodes):
        contexts = [tuple(tree.tokens[node] for node in tree.path(n)[1:]) for n in range(num_nodes)]
        for choices in itertools.product(range(3), repeat=num_nodes):
            next_token = dict(zip(contexts, choices, strict=True))
            expected = []
            while tuple(expected) in next_token:
                expected.append(next_token[tuple(expected)])
            path, bonus_token = verify_choices(tree, choices)
            assert [*(tree.tokens[node] for node in path[1:]), bonus_token] == expected


class World:
    """Target and draft with random logits after every context, decoded with given noise."""

    VOCAB, LENGTH = 3, 3

    def __init__(self, seed, sharpness):
        random = np.random.default_rng(seed)
        contexts = [c for n in range(self.LENGTH) for c in itertools.product(range(self.VOCAB), repeat=n)]
        self.target = {c: torch.from_numpy(random.normal(size=self.VOCAB)).float() * sharpness for c in contexts}
        self.draft = {
            c: logits.numpy() + random.normal(size=self.VOCAB, scale=0.5) for c, logits in self.target.items()
        }

    def autoregressive(self, noise):
        output = ()
        for row in noise:
            output += (choose(self.target[output], row),)
        return output

    def decode(self, propose, noise):
        """Output and the number of accepted tokens, drafting with `propose(context, noise of what follows)`."""
        output, accepted = (), 0
        while len(output) < self.LENGTH:
            tree = propose(self, output, noise[len(output) :])
            path, bonus_token = verify_sampled(tree, lambda node, depth: self._choose(output, tree, node, noise))  # noqa: B023
            output += (*(tree.tokens[node] for node in path[1:]), bonus_token)
            accepted += len(path) - 1
        return output[: self.LENGTH], accepted

    def _choose(self, output, tree, node, noise):
        context = (*output, *(tree.tokens[ancestor] for ancestor in tree.path(node)[1:]))
        return choose(self.target[context], noise[len(context)])


def _nothing(world, context, noise):
    return TokenTree.root_only(0)


def _coupled_chain(world, context, noise):
    tokens = ()
    for row in noise[:-1]:
        tokens += (int((world.draft[context + tokens] + row).argmax()),)
    return TokenTree.chain(0, tokens)


def _coupled_tree(world, context, noise):
    """The two best tokens by the draft and the noise, each with its own two best tokens."""
    tokens, parents, level = [0], [-1], [((), 0)]
    for row in noise[:-1]:
        level, expanded = [], level
        for path, node in expanded:
            for token in np.argsort(-(world.draft[context + path] + row))[:2].tolist():
                level.append(((*path, token), len(tokens)))
                tokens.append(token)
                parents.append(node)
    return TokenTree(tuple(tokens), tuple(parents))


def _adversarial_chain(world, context, noise):
    """What noise and draft like least: drafts may depend on the noise in any way."""
    tokens = ()
    for row in noise[:-1]:
        tokens += (int((world.draft[context + tokens] + row).argmin()),)
    return TokenTree.chain(0, tokens)


NOISES = list(every_noise(World.VOCAB, World.LENGTH, (-1.0, 1.5)))


@pytest.mark.parametrize("propose", [_nothing, _coupled_chain, _coupled_tree, _adversarial_chain])
@pytest.mark.parametrize("sharpness", [0.5, 2.0])
def test_output_is_the_autoregressive_one_for_every_noise_whatever_was_drafted(propose, sharpness):
    world = World(seed=11, sharpness=sharpness)
    expected = [world.autoregressive(noise) for noise in NOISES]
    assert [world.decode(propose, noise)[0] for noise in NOISES] == expected
    assert len(set(expected)) > 3


def _cut(tree, depth):
    """The tree without nodes below `depth`."""
    kept = [node for node, its_depth in enumerate(tree.depths) if its_depth <= depth]
    parents = [kept.index(tree.parents[node]) if node else -1 for node in kept]
    return TokenTree(tuple(tree.tokens[node] for node in kept), tuple(parents))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 100), st.data())
def test_any_tree_gives_the_autoregressive_output_for_any_noise(seed, data):
    world = World(seed, sharpness=1.0)
    trees = {}

    def propose(world, context, noise):
        if context not in trees:
            trees[context] = _cut(data.draw(token_trees(max_nodes=7, vocab_size=world.VOCAB)), len(noise) - 1)
        return trees[context]

    for noise in NOISES[:: 1 + seed % 7]:
        assert world.decode(propose, noise)[0] == world.autoregressive(noise)


def test_the_same_noise_makes_draft_and_target_agree_more_often():
    world = World(seed=1, sharpness=1.0)
    random = np.random.default_rng(0)
    noises = random.gumbel(size=(400, World.LENGTH, World.VOCAB)).astype(np.float32)

    def accepted(propose):
        return sum(world.decode(propose, noise)[1] for noise in noises)

    def greedy_chain(world, context, noise):
        return _coupled_chain(world, context, np.zeros_like(noise))

    assert accepted(_coupled_tree) > accepted(_coupled_chain) > 1.2 * accepted(greedy_chain)
