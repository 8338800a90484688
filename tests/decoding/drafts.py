"""Drafts of every kind for a tiny target, good, bad and hostile."""

import random

from autodraft.cascade import Cascade, PromptLookup, SelfDraft
from autodraft.decoding import TokenTree
from autodraft.policy import ChannelShares, DraftPolicy

FULL = DraftPolicy.uniform(3)
LAST_BLOCK_SKIPPED = FULL.replace({4: ChannelShares(), 5: ChannelShares()})
EIGHT_BITS = DraftPolicy.uniform(3, 8)
MIXED = FULL.replace({0: ChannelShares(full=8, four=8), 3: ChannelShares(eight=8), 5: ChannelShares()}, head_bits=8)
NOTHING_KEPT = DraftPolicy.uniform(3, 0)

LOOKUP = PromptLookup(num_draft_tokens=6)

CASCADES = {
    "lookup": Cascade(drafts=(LOOKUP,)),
    "chain": Cascade(drafts=(SelfDraft(policy=LAST_BLOCK_SKIPPED, num_draft_tokens=5),)),
    "chain, target itself": Cascade(drafts=(SelfDraft(policy=FULL, num_draft_tokens=4),)),
    "chain, stops": Cascade(drafts=(SelfDraft(policy=EIGHT_BITS, num_draft_tokens=6, stop_threshold=0.5),)),
    "chain, useless": Cascade(drafts=(SelfDraft(policy=NOTHING_KEPT, num_draft_tokens=3),)),
    "tree": Cascade(drafts=(SelfDraft(policy=MIXED, num_draft_tokens=4, branching=3, max_nodes=12),)),
    "tree, stops": Cascade(
        drafts=(
            SelfDraft(policy=LAST_BLOCK_SKIPPED, num_draft_tokens=5, branching=2, max_nodes=20, stop_threshold=0.2),
        )
    ),
    "cascade": Cascade(drafts=(PromptLookup(min_ngram=2), SelfDraft(policy=LAST_BLOCK_SKIPPED, num_draft_tokens=4))),
    "cascade, tree": Cascade(
        drafts=(PromptLookup(min_ngram=3), SelfDraft(policy=EIGHT_BITS, num_draft_tokens=3, branching=2, max_nodes=9))
    ),
}


class HostileDrafter:
    """Random trees of random tokens that keep the contract and nothing else; sometimes nothing at all."""

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

    def observe(self, tree, path):
        self.observed.append((tree, list(path)))


class OracleDrafter:
    """Proposes what the target will say, with wrong siblings in front, so that the accepted path has gaps."""

    def __init__(self, answer):
        self._answer = answer

    def start(self, tokens):
        self._prompt_length = len(tokens)

    def propose(self, context):
        done = len(context.tokens) - self._prompt_length
        right = self._answer[done : done + min(3, context.max_depth, context.max_nodes // 2)]
        tokens, parents, node = [context.tokens[-1]], [-1], 0
        for token in right:
            tokens += [token ^ 1, token]
            parents += [node, node]
            node = len(tokens) - 1
        return TokenTree(tuple(tokens), tuple(parents)) if right else None

    def observe(self, tree, path):
        assert len(path) == tree.depth + 1
