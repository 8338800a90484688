"""The methods of `autodraft bench` by name: what makes each of them ready to run on a target, or says why it cannot.

Knows nothing of timing or of tables. `METHODS` is the registry: an entry is a function from a `BenchContext` to a
`Ready` contestant or to `Unavailable` with its reason. Ours draft with the profile's drafts; the published ones are as
good as a short trial or a formula makes them; the lossy ones are reference lines, for they decode another model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

import torch

from autodraft.cascade import (
    AUTOREGRESSIVE,
    Cascade,
    Chain,
    Draft,
    DyTC,
    Horizontal,
    ModelDraft,
    PromptLookup,
    Scheduler,
    StaticTree,
    SuffixAutomaton,
    TokenRecycling,
    Vertical,
    VerticalHorizontal,
    unbounded,
)
from autodraft.decoding import GREEDY, SamplingConfig
from autodraft.decoding.on_the_fly import OnTheFlyDrafter
from autodraft.measure.hf import HF_METHODS, HFBaseline, HFModeUnavailableError
from autodraft.measure.prompts import calibration_prompts, encode_prompts
from autodraft.measure.skip_only import derive_skip_only
from autodraft.measure.speedup import BASELINE, Contestant, Run, decoder_contestant
from autodraft.policy import DraftPolicy
from autodraft.profile import DraftProfile, Priors
from autodraft.runtime import LoadedModel, TransformerRuntime

Kind = Literal["baseline", "ours", "published", "lossy"]
PROFILE = "profile"
_LONGEST_CALIBRATION_PROMPT = 96


@dataclass(frozen=True)
class Ready:
    """A method that can run: its contestant, and what it runs with, for the record."""

    contestant: Contestant
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Unavailable:
    """A method that cannot run here, and why."""

    reason: str


@dataclass(frozen=True)
class BenchContext:
    """What methods are made from.

    Attributes:
        loaded: the target.
        profile: what a search exported for it, if there is such a thing.
        trial_prompt: tokens that settings are tried on.
        sampling: how tokens are chosen, `seed` per prompt (see `prompt_seed`).
    """

    loaded: LoadedModel
    profile: DraftProfile | None
    trial_prompt: Sequence[int]
    sampling: SamplingConfig = GREEDY
    seed: int = 0

    @property
    def runtime(self) -> TransformerRuntime:
        return self.loaded.runtime

    @property
    def drafts(self) -> tuple[Draft, ...]:
        """The profile's."""
        return self.profile.cascade.drafts if self.profile is not None else ()

    @cached_property
    def hf(self) -> HFBaseline:
        """The checkpoint as a Hugging Face model, loaded once for all of its modes."""
        return HFBaseline(self.loaded, self.trial_prompt, self.sampling, self.seed)

    def decoder(self, cascade: Cascade, priors: Priors | None = None) -> Contestant:
        """Our decoder with a cascade."""
        return decoder_contestant(
            self.runtime, cascade, self.loaded.generation_eos, priors=priors, sampling=self.sampling, seed=self.seed
        )


Method = Callable[[BenchContext], Ready | Unavailable]


def _autoregressive(context: BenchContext) -> Ready:
    return Ready(context.decoder(AUTOREGRESSIVE))


def _missing_drafts(context: BenchContext) -> Unavailable | None:
    if context.profile is None:
        return Unavailable("no profile was given")
    if not context.drafts:
        return Unavailable("the profile decodes autoregressively: it has no drafts")
    return None


def _profile(context: BenchContext) -> Ready | Unavailable:
    if missing := _missing_drafts(context):
        return missing
    assert context.profile is not None
    cascade = context.profile.cascade
    drafts = ", ".join(draft.kind for draft in cascade.drafts)
    settings = {"drafts": drafts, "scheduler": _in_words(cascade.scheduler)}
    return Ready(context.decoder(cascade, context.profile.priors), settings)


def _scheduled(scheduler: Scheduler, context: BenchContext) -> Ready | Unavailable:
    """The profile's drafts under another scheduler."""
    if missing := _missing_drafts(context):
        return missing
    assert context.profile is not None
    if context.profile.cascade.scheduler.kind == scheduler.kind:
        return Unavailable("the profile's own scheduler")
    if len(context.drafts) == 1 and isinstance(scheduler, Vertical | Horizontal | VerticalHorizontal):
        return Unavailable("the profile has one draft: there is nothing to cascade")
    cascade, priors = rescheduled(context.profile, scheduler)
    settings = {"drafts": ", ".join(draft.kind for draft in cascade.drafts), "scheduler": _in_words(scheduler)}
    return Ready(context.decoder(cascade, priors), settings)


def rescheduled(profile: DraftProfile, scheduler: Scheduler) -> tuple[Cascade, Priors]:
    """A profile's drafts as another scheduler wants them, and their priors.

    Free ones come first where the first draft that has a proposal drafts alone, and behind the models where drafts
    build on each other. Where the scheduler decides how far a model drafts, nothing else does.
    """
    drafts, priors = profile.cascade.drafts, profile.priors
    alone = isinstance(scheduler, Chain | StaticTree)
    order = sorted(range(len(drafts)), key=lambda number: isinstance(drafts[number], ModelDraft) == alone)
    ordered = [drafts[number] for number in order]
    if isinstance(scheduler, DyTC):
        ordered = [unbounded(draft) if isinstance(draft, ModelDraft) else draft for draft in ordered]
    if priors.drafts:
        priors = priors.model_copy(update={"drafts": tuple(priors.drafts[number] for number in order)})
    return Cascade(drafts=tuple(ordered), scheduler=scheduler), priors


def _alone(cascade: Cascade, context: BenchContext) -> Ready:
    """A free draft without any other."""
    settings = {name: str(value) for name, value in cascade.drafts[0].model_dump(exclude={"kind"}).items()}
    return Ready(context.decoder(cascade), {**settings, "scheduler": _in_words(cascade.scheduler)})


def _skip_only(context: BenchContext) -> Ready:
    calibration = encode_prompts(calibration_prompts(), context.loaded.tokenizer, _LONGEST_CALIBRATION_PROMPT)
    found = derive_skip_only(context.loaded, calibration, seed=context.seed)
    return Ready(context.decoder(found.cascade), found.settings)


def _on_the_fly(context: BenchContext) -> Ready:
    drafter = OnTheFlyDrafter(context.runtime)
    contestant = decoder_contestant(
        context.runtime, AUTOREGRESSIVE, context.loaded.generation_eos, drafter=drafter,
        sampling=context.sampling, seed=context.seed,
    )  # fmt: skip
    return Ready(contestant, {"mode": str(drafter.settings.mode), "state": "kept from prompt to prompt"})


def _hf(name: str, context: BenchContext) -> Ready | Unavailable:
    try:
        mode = context.hf.fastest_mode(name)
    except HFModeUnavailableError as error:
        return Unavailable(str(error))
    return Ready(context.hf.contestant(mode), context.hf.settings(name, mode))


def _low_bit(bits: int, context: BenchContext) -> Ready | Unavailable:
    """A low-bit model on its own, its prompt's keys left by the target."""
    runtime = context.runtime
    if bits not in runtime.available_bits:
        return Unavailable(f"the {runtime.backend} backend does not run {bits} bits faster than the target")
    plan = runtime.plan(DraftPolicy.uniform(runtime.spec.num_blocks, bits))
    cache = runtime.new_cache()

    @torch.inference_mode()
    def run(prompt: Sequence[int], max_new_tokens: int) -> Run:
        started = time.perf_counter()
        cache.truncate(0)
        runtime.prefill(cache, prompt[:-1])
        prefilled = time.perf_counter()
        drafted = runtime.draft_chain(plan, cache, prompt[-1:], max_new_tokens)
        tokens = tuple(candidates.tokens[0] for candidates in drafted)
        return Run(tokens, prefilled - started, time.perf_counter() - prefilled)

    return Ready(run, {"bits": str(bits), "prefill": "by the target", "decoding": "greedy, on past the end of text"})


def _in_words(scheduler: Scheduler) -> str:
    settings = scheduler.model_dump(exclude={"kind"})
    return " ".join([scheduler.kind, *(f"{name}={value:g}" for name, value in settings.items())])


METHODS: dict[str, Method] = {
    BASELINE: _autoregressive,
    PROFILE: _profile,
    "chain": partial(_scheduled, Chain()),
    "static-tree": partial(_scheduled, StaticTree()),
    "vertical": partial(_scheduled, Vertical()),
    "horizontal": partial(_scheduled, Horizontal()),
    "vertical+horizontal": partial(_scheduled, VerticalHorizontal()),
    "dytc": partial(_scheduled, DyTC()),
    "suffix-automaton": partial(_alone, Cascade(drafts=(SuffixAutomaton(),))),
    "token-recycling": partial(_alone, Cascade(drafts=(TokenRecycling(),), scheduler=StaticTree())),
    "prompt-lookup": partial(_alone, Cascade(drafts=(PromptLookup(),))),
    "skip-only": _skip_only,
    "on-the-fly": _on_the_fly,
    **{name: partial(_hf, name) for name in HF_METHODS},
    "int8-autoregressive": partial(_low_bit, 8),
    "int4-autoregressive": partial(_low_bit, 4),
}
"""Every method by name, in the order of tables; a new one needs an entry here and in `kind_of`, if it is not ours."""

PUBLISHED = frozenset({"prompt-lookup", "skip-only", "on-the-fly", *HF_METHODS})
LOSSY = frozenset({"int8-autoregressive", "int4-autoregressive"})


def kind_of(name: str) -> Kind:
    """The baseline, one of ours, a published competitor, or a lossy reference line."""
    if name == BASELINE:
        return "baseline"
    if name in LOSSY:
        return "lossy"
    return "published" if name in PUBLISHED else "ours"
