"""A runtime that computes each forward pass of the real one once, so that tens of thousands of generations are cheap.

Only for one fixed prompt and drafters that depend on nothing but the context: then all passes of a cycle are either
remembered or computed in order, on a cache that holds exactly that context.
"""


class RememberingCache:
    """Knows which tokens it holds; the real cache is brought up to date when a pass must be computed."""

    def __init__(self, runtime):
        self.real = runtime.new_cache()
        self.capacity = self.real.capacity
        self.tokens = ()
        self._written = {}

    @property
    def length(self):
        return len(self.tokens)

    def write(self, rows):
        self._written.update(zip(rows.slots, rows.tokens, strict=True))

    def commit(self, slots):
        self.tokens += tuple(self._written[slot] for slot in slots)

    def truncate(self, length):
        self.tokens = self.tokens[:length]


class RememberingRuntime:
    """The real runtime behind a dictionary."""

    def __init__(self, runtime):
        self._runtime = runtime
        self._results = {}
        self._held = None

    def __getattr__(self, name):
        return getattr(self._runtime, name)

    def new_cache(self):
        return RememberingCache(self._runtime)

    def prefill(self, cache, tokens):
        cache.tokens += tuple(tokens)

    def forward(self, plan, cache, rows):
        cache.write(rows)
        key = (plan.policy.digest, cache.tokens, tuple(rows.tokens), tuple(map(tuple, rows.paths)))
        if key not in self._results:
            self._bring_up_to_date(cache)
            self._results[key] = self._runtime.forward(plan, cache.real, rows).clone()
        return self._results[key]

    def draft_chain(self, plan, cache, *options):
        key = (plan.policy.digest, cache.tokens, options)
        if key not in self._results:
            self._bring_up_to_date(cache)
            self._results[key] = self._runtime.draft_chain(plan, cache.real, *options)
        return self._results[key]

    def _bring_up_to_date(self, cache):
        if self._held != cache.tokens:
            cache.real.truncate(0)
            self._runtime.prefill(cache.real, cache.tokens)
            self._held = cache.tokens
