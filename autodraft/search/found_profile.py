"""`profile_of_found`: what decoding on the fly has found, as a draft profile.

Knows nothing of how it was found. The figures are those of one run on one text: they are the profile's priors and its
prediction, not a measurement.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from autodraft.cascade import SelfDraft
from autodraft.decoding.on_the_fly import Found
from autodraft.measure.device import device_stamp, target_stamp
from autodraft.measure.formulas import tokens_per_cycle
from autodraft.profile import DraftPrior, DraftProfile, Prediction, Priors, Provenance
from autodraft.runtime import LoadedModel


def profile_of_found(loaded: LoadedModel, found: Found, mode: str, seed: int) -> DraftProfile:
    """A profile that runs the draft that was found; `mode` is how it was looked for."""
    draft = found.cascade.drafts[0]
    assert isinstance(draft, SelfDraft)
    runtime, score = loaded.runtime, found.score
    stamp = device_stamp(runtime.device, runtime.backend)
    expected = 0.0 if score is None else score.top1_agreement
    alpha = expected if found.alpha is None else found.alpha
    prior = DraftPrior(alpha=alpha, cost=found.cost, extra_bytes=runtime.plan(draft.policy).extra_bytes)
    return DraftProfile(
        conclusion="speculate",
        target=target_stamp(loaded),
        device=stamp,
        cascade=found.cascade,
        priors=Priors(drafts=(prior,)),
        predicted=None
        if score is None
        else Prediction(speedup=score.speedup, tokens_per_cycle=tokens_per_cycle(expected, score.num_draft_tokens)),
        provenance=Provenance(
            study="on-the-fly",
            storage="none",
            searcher=mode,
            seed=seed,
            command=" ".join(sys.argv),
            created=datetime.now(UTC),
            versions=stamp.versions,
        ),
    )
