"""Drafts and cascades of every kind for a tiny target: good, bad, useless and hostile."""

import random

from autodraft.cascade import (
    Cascade,
    Chain,
    DyTC,
    Horizontal,
    PromptLookup,
    SelfDraft,
    StaticTree,
    SuffixAutomaton,
    TokenRecycling,
    Vertical,
    VerticalHorizontal,
)
from autodraft.decoding import Drafter, TokenTree
from autodraft.policy import ChannelShares, DraftPolicy

FULL = DraftPolicy.uniform(3)
LAST_BLOCK_SKIPPED = FULL.replace({4: ChannelShares(), 5: ChannelShares()})
EIGHT_BITS = DraftPolicy.uniform(3, 8)
MIXED = FULL.replace({0: ChannelShares(full=8, four=8), 3: ChannelShares(eight=8), 5: ChannelShares()}, head_bits=8)
NOTHING_KEPT = DraftPolicy.uniform(3, 0)

LOOKUP = PromptLookup(num_draft_tokens=6)
AUTOMATON = SuffixAutomaton(num_draft_tokens=6)
RECYCLING = TokenRecycling(num_draft_tokens=4, num_successors=3)

TARGET_ITSELF = SelfDraft(policy=FULL, num_draft_tokens=4)
GOOD = SelfDraft(policy=EIGHT_BITS, num_draft_tokens=4)
UNSURE = SelfDraft(policy=EIGHT_BITS, num_draft_tokens=6, stop_threshold=0.5)
BAD = SelfDraft(policy=LAST_BLOCK_SKIPPED, num_draft_tokens=5)
USELESS = SelfDraft(policy=NOTHING_KEPT, num_draft_tokens=3)

SMALL_TREE = StaticTree(branching=3, max_nodes=12)

SCHEDULERS = {
    "chain": Chain(),
    "static-tree": SMALL_TREE,
    "vertical": Vertical(),
    "horizontal": Horizontal(),
    "vertical+horizontal": VerticalHorizontal(),
    "dytc": DyTC(max_depth=8, max_nodes=16),
}

CASCADES = {
    "lookup": Cascade(drafts=(LOOKUP,)),
    "chain": Cascade(drafts=(BAD,)),
    "chain, target itself": Cascade(drafts=(TARGET_ITSELF,)),
    "chain, stops": Cascade(drafts=(UNSURE,)),
    "chain, useless": Cascade(drafts=(USELESS,)),
    "cascade": Cascade(drafts=(PromptLookup(min_ngram=2), BAD.model_copy(update={"num_draft_tokens": 4}))),
    "tree": Cascade(drafts=(SelfDraft(policy=MIXED, num_draft_tokens=4),), scheduler=SMALL_TREE),
    "tree, stops": Cascade(
        drafts=(BAD.model_copy(update={"stop_threshold": 0.2}),), scheduler=StaticTree(branching=2, max_nodes=20)
    ),
    "tree, free": Cascade(drafts=(AUTOMATON, RECYCLING), scheduler=SMALL_TREE),
    "cascade, tree": Cascade(
        drafts=(PromptLookup(min_ngram=3), SelfDraft(policy=EIGHT_BITS, num_draft_tokens=3)),
        scheduler=StaticTree(branching=2, max_nodes=9),
    ),
    "vertical, models": Cascade(drafts=(GOOD, BAD, USELESS), scheduler=Vertical()),
    "vertical, lookup": Cascade(drafts=(UNSURE, LOOKUP), scheduler=Vertical()),
    "vertical, recycling": Cascade(drafts=(GOOD, BAD, RECYCLING), scheduler=Vertical()),
    "horizontal, models": Cascade(drafts=(UNSURE, BAD), scheduler=Horizontal()),
    "horizontal, free": Cascade(drafts=(LOOKUP, AUTOMATON, RECYCLING), scheduler=Horizontal()),
    "vertical+horizontal, automaton": Cascade(drafts=(GOOD, BAD, AUTOMATON), scheduler=VerticalHorizontal()),
    "vertical+horizontal, useless": Cascade(drafts=(USELESS, RECYCLING), scheduler=VerticalHorizontal()),
    "dytc, free": Cascade(drafts=(LOOKUP, RECYCLING), scheduler=DyTC()),
    "dytc, one model": Cascade(drafts=(TARGET_ITSELF,), scheduler=SCHEDULERS["dytc"]),
    "dytc, models": Cascade(drafts=(GOOD, BAD, USELESS), scheduler=DyTC(siblings=2)),
    "dytc, everything": Cascade(drafts=(GOOD, BAD, LOOKUP, AUTOMATON, RECYCLING), scheduler=DyTC()),
}


class HostileDrafter(Drafter):
    """Random trees of random tokens that keep the contract and nothing else; sometimes nothing at all."""

    num_drafts, model_s = 1, 0.0

    def __init__(self, vocab_size, seed=0):
        self._random = random.Random(seed)
        self._vocab_size = vocab_size
        self.observed = []

    def start(self, tokens):
        self.observed.clear()

    def propose(self, context):
        assert context.cache.length == len(context.tokens) - 1
        assert 1 <= context.max_depth <= context.max_nodes
        if self._random.random() < 0.2:
            return None
        tokens, parents, depths = [context.tokens[-1]], [-1], [0]
        for _ in range(self._random.randint(1, min(9, context.max_nodes))):
            parent = self._random.choice([node for node, depth in enumerate(depths) if depth < context.max_depth])
            token = self._random.randrange(self._vocab_size)
            if (parent, token) not in set(zip(parents, tokens, strict=True)):
                tokens.append(token)
                parents.append(parent)
                depths.append(depths[parent] + 1)
        return TokenTree(tuple(tokens), tuple(parents))

    def observe(self, outcome):
        self.observed.append(outcome)


class OracleDrafter(Drafter):
    """Proposes what the target will say, with wrong siblings in front, so that the accepted path has gaps."""

    num_drafts, model_s = 1, 0.0

    def __init__(self, answer, longest=3):
        self._answer, self._longest = answer, longest

    def start(self, tokens):
        self._prompt_length = len(tokens)

    def propose(self, context):
        done = len(context.tokens) - self._prompt_length
        right = self._answer[done : done + min(self._longest, context.max_depth, context.max_nodes // 2)]
        tokens, parents, node = [context.tokens[-1]], [-1], 0
        for token in right:
            tokens += [token ^ 1, token]
            parents += [node, node]
            node = len(tokens) - 1
        return TokenTree(tuple(tokens), tuple(parents)) if right else None

    def observe(self, outcome):
        assert len(outcome.path) == outcome.tree.depth + 1
