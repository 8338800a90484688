"""`PromptCache`: a KV cache that remembers whose keys it holds. Knows nothing of decoding."""

from __future__ import annotations

from autodraft.runtime import KVCache, TransformerRuntime


class PromptCache:
    """The keys and values of one text, for decoders that run one after the other.

    A prompt that begins as the last text did, as in a chat, is prefilled from where they part. Every decoder may have
    its own, or several of one runtime may share one.

    Attributes:
        keys: the cache.
    """

    def __init__(self, runtime: TransformerRuntime) -> None:
        self.keys: KVCache = runtime.new_cache()
        self._tokens: list[int] = []

    def begin(self, tokens: list[int]) -> None:
        """Keep the keys of what `tokens` begins with, all but its last token at most.

        From now on the cache is that of `tokens`, which is to grow as its keys are committed.
        """
        most = min(self.keys.length, len(self._tokens), len(tokens) - 1)
        same = next((i for i in range(most) if self._tokens[i] != tokens[i]), most)
        self.keys.truncate(same)
        self._tokens = tokens
