"""A drafter in a world where time is what the test says: schedulers that measure decide the same on every machine."""

from dataclasses import replace

from autodraft.decoding import CascadeDecoder, ScheduledDrafter
from autodraft.profile import DraftPrior, Priors


class PacedRuntime:
    """The real runtime; each forward pass of a draft moves the clock by `draft_s`, whatever it really takes.

    Every cycle takes place one by one, or the clock would stand still.
    """

    runs_cycles = False

    def __init__(self, runtime, draft_s):
        self._runtime, self._draft_s = runtime, draft_s
        self.now = 0.0
        self.passes = 0  # forward passes of drafts

    def __getattr__(self, name):
        return getattr(self._runtime, name)

    def review(self, *arguments):
        self._pass(1)
        return self._runtime.review(*arguments)

    def draft_chain(self, *arguments, **options):
        found = self._runtime.draft_chain(*arguments, **options)
        self._pass(len(found))
        return found

    def _pass(self, count):
        self.now += count * self._draft_s
        self.passes += count


class PacedDrafter(ScheduledDrafter):
    """The product's drafter on a virtual clock, in target steps: a token takes 1, verifying n nodes 1 + n `node_s`."""

    def __init__(self, runtime, cascade, draft_s=0.05, *, guarded=False, node_s=0.01):
        self.paced, self._node_s = PacedRuntime(runtime, draft_s), node_s
        priors = Priors(drafts=tuple(DraftPrior(alpha=0.7, cost=draft_s) for _ in cascade.drafts))
        super().__init__(self.paced, cascade, priors, guarded=guarded, clock=lambda: self.paced.now)
        self.outcomes = []

    def start(self, tokens):
        self.outcomes = []
        super().start(tokens)

    def observe(self, outcome):
        verify_s = 1 + self._node_s * outcome.tree.num_drafted
        self.paced.now += verify_s
        self.outcomes.append(outcome)
        super().observe(replace(outcome, verify_s=verify_s))

    def observe_alone(self, tokens, seconds, noise):
        self.paced.now += len(tokens)
        super().observe_alone(tokens, float(len(tokens)), noise)


def eager_decoder(runtime, cascade):
    """A decoder whose drafts cost next to nothing and are not suspended: it drafts wherever the scheduler would."""
    return CascadeDecoder(runtime, cascade, drafter=None if not cascade.drafts else PacedDrafter(runtime, cascade))
