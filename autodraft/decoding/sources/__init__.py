"""Token sources: drafts that cost no forward pass. Prompt lookup, a suffix automaton, Token Recycling."""

from autodraft.decoding.sources.prompt_lookup import NgramIndex, PromptLookupSource
from autodraft.decoding.sources.protocol import State, TokenSource
from autodraft.decoding.sources.suffix_automaton import MATCH_BUCKETS, SuffixAutomatonSource
from autodraft.decoding.sources.token_recycling import TokenRecyclingSource, template

__all__ = [
    "MATCH_BUCKETS",
    "NgramIndex",
    "PromptLookupSource",
    "State",
    "SuffixAutomatonSource",
    "TokenRecyclingSource",
    "TokenSource",
    "template",
]
