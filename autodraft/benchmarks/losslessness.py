"""Is the output really the target's? Token identity over many prompts, for the record in reports/.

Run as `python -m autodraft.benchmarks.losslessness`. Knows nothing of speed. Output of every scheduler and kind of
draft, greedy and sampled with a seed, is compared, token by token and with no tolerance, with our autoregressive
output; the greedy one of those is compared with Hugging Face's `generate`, and where they differ the gap between the
two tokens' logits is shown.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch

from autodraft.benchmarks.writing import command_line, device_line, report_parser, write_report
from autodraft.cascade import (
    Cascade,
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
from autodraft.decoding import GREEDY, CascadeDecoder, SamplingConfig
from autodraft.decoding.on_the_fly import OnTheFlyDrafter
from autodraft.measure.device import device_stamp
from autodraft.measure.prompts import Prompt, bundled_prompts, choose_prompts
from autodraft.policy import ChannelShares, DraftPolicy
from autodraft.profile import DraftProfile
from autodraft.runtime import LoadedModel, Rows, load_hf_model, load_model


@dataclass(frozen=True)
class Difference:
    """The first token at which two outputs part, and how close the call was.

    Attributes:
        logit_gap: our logit of our token minus our logit of the other one, at that position.
    """

    question_id: str
    position: int
    our_token: int
    other_token: int
    logit_gap: float


@dataclass
class Identity:
    """How often one method's output was the reference's."""

    method: str
    reference: str
    temperature: float = 0.0
    prompts: int = 0
    identical_prompts: int = 0
    tokens: int = 0
    differences: list[Difference] = field(default_factory=list)


def standard_cascades(num_blocks: int) -> dict[str, Cascade]:
    """Every scheduler and every kind of draft, among them one that is nearly always wrong."""
    low = DraftPolicy.uniform(num_blocks, 4)
    middle = {
        2 * block + kind: ChannelShares() for block in range(num_blocks // 4, num_blocks - 2, 2) for kind in (0, 1)
    }
    sparse = SelfDraft(policy=low.replace(middle), num_draft_tokens=5, stop_threshold=0.3)
    useless = low.replace({index: ChannelShares() for index in range(1, 2 * num_blocks)})
    eight = SelfDraft(policy=DraftPolicy.uniform(num_blocks, 8), num_draft_tokens=6)
    copies = SuffixAutomaton(num_draft_tokens=15)
    hierarchy = (copies, TokenRecycling(), sparse, eight)
    return {
        "chain, prompt lookup": Cascade(drafts=(PromptLookup(num_draft_tokens=8),)),
        "chain, token recycling": Cascade(drafts=(TokenRecycling(),)),
        "chain, 8 bits": Cascade(drafts=(eight,)),
        "chain, 4 bits, half of the middle skipped": Cascade(drafts=(sparse,)),
        "chain, all but one sub-layer skipped": Cascade(drafts=(SelfDraft(policy=useless, num_draft_tokens=4),)),
        "static tree, 4 bits, half of the middle skipped": Cascade(
            drafts=(sparse,), scheduler=StaticTree(branching=3, max_nodes=12)
        ),
        "vertical, automaton and 8 bits": Cascade(drafts=(copies, eight), scheduler=Vertical()),
        "horizontal, automaton and 8 bits": Cascade(drafts=(copies, eight), scheduler=Horizontal()),
        "vertical+horizontal, automaton and 8 bits": Cascade(drafts=(copies, eight), scheduler=VerticalHorizontal()),
        "dytc, automaton and 8 bits": Cascade(drafts=(copies, eight), scheduler=DyTC()),
        "dytc, automaton, recycling, 4 bits sparse, 8 bits": Cascade(drafts=hierarchy, scheduler=DyTC()),
    }


def check_identity(
    loaded: LoadedModel,
    decoders: Mapping[str, CascadeDecoder],
    samplings: Sequence[SamplingConfig],
    prompts: Sequence[Prompt],
    new_tokens: int,
    with_hf: bool,
) -> list[Identity]:
    """Compare outputs on some prompts; a prompt's number is its seed."""
    baseline = CascadeDecoder(loaded.runtime)
    hf_model = load_hf_model(loaded) if with_hf else None
    found = {
        (name, sampling): Identity(name, "our autoregressive decoding", sampling.temperature)
        for sampling, name in product(samplings, decoders)
    }
    hf_result = Identity("our autoregressive decoding", "Hugging Face generate")
    for number, prompt in enumerate(prompts, start=1):
        tokens = loaded.tokenizer.encode(prompt.text)
        for sampling in samplings:
            options: dict[str, Any] = {"max_new_tokens": new_tokens, "sampling": sampling, "seed": number}
            expected = baseline.generate(tokens, **options).tokens
            for name, decoder in decoders.items():
                ours = decoder.generate(tokens, **options).tokens
                _compare(found[name, sampling], loaded, prompt.question_id, tokens, ours, expected)
            if hf_model is not None and sampling is GREEDY:
                other = _hf_tokens(hf_model, tokens, new_tokens)
                _compare(hf_result, loaded, prompt.question_id, tokens, expected, other)
        print(f"\r{loaded.runtime.dtype}: prompt {number} of {len(prompts)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return [*found.values(), *([hf_result] if hf_model is not None else [])]


def _compare(
    result: Identity,
    loaded: LoadedModel,
    question_id: str,
    prompt: Sequence[int],
    ours: Sequence[int],
    other: Sequence[int],
) -> None:
    result.prompts += 1
    result.tokens += len(ours)
    if list(ours) == list(other):
        result.identical_prompts += 1
        return
    position = next(i for i, pair in enumerate(zip(ours, other, strict=False)) if pair[0] != pair[1])
    runtime = loaded.runtime
    cache = runtime.new_cache()
    context = [*prompt, *ours[:position]]
    runtime.prefill(cache, context[:-1])
    logits = runtime.forward(runtime.target, cache, Rows.chain(context[-1:], cache.length))[0]
    gap = float(logits[ours[position]] - logits[other[position]])
    result.differences.append(Difference(question_id, position, ours[position], other[position], gap))


@torch.inference_mode()
def _hf_tokens(model: Any, prompt: Sequence[int], new_tokens: int) -> list[int]:
    ids = torch.tensor([list(prompt)])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


def markdown(document: Mapping[str, Any]) -> str:
    """The report as a person reads it."""
    lines = [
        "# Losslessness",
        "",
        f"Model `{document['model']}`, {document['num_prompts']} held-out prompts, {document['new_tokens']} new tokens"
        " each; at a temperature with a seed for each prompt.",
        device_line(document["device"]),
        f"Command: `{document['command']}`",
        "",
        "| precision | temperature | method | compared with | identical prompts | tokens"
        " | largest logit gap at a difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in document["results"]:
        gaps = [abs(difference["logit_gap"]) for difference in row["differences"]]
        largest = f"{max(gaps):.2g}" if gaps else "none differ"
        lines.append(
            f"| {row['dtype']} | {row['temperature']:g} | {row['method']} | {row['reference']}"
            f" | {row['identical_prompts']} of {row['prompts']} | {row['tokens']} | {largest} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure in float32 and bfloat16, and write JSON and Markdown."""
    parser = report_parser("losslessness", __doc__, "reports/losslessness")
    parser.add_argument("--model", default="llama")
    parser.add_argument("--profile", type=Path, help="also check this profile's cascade")
    parser.add_argument("--temperature", type=float, default=0.7, help="also sample at this temperature")
    parser.add_argument("--num-prompts", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=128)
    options = parser.parse_args(arguments)
    prompts = choose_prompts(bundled_prompts(), options.num_prompts)
    results: list[dict[str, Any]] = []
    stamp = None
    for dtype in ("float32", "bfloat16"):
        loaded = load_model(options.model, dtype=dtype)
        cascades = standard_cascades(loaded.runtime.spec.num_blocks)
        if options.profile:
            cascades["profile"] = DraftProfile.load(options.profile).cascade
        decoders = {name: CascadeDecoder(loaded.runtime, cascade) for name, cascade in cascades.items()}
        decoders["on the fly"] = CascadeDecoder(loaded.runtime, drafter=OnTheFlyDrafter(loaded.runtime))
        stamp = device_stamp(loaded.runtime.device, loaded.runtime.backend)
        samplings = (GREEDY, SamplingConfig(temperature=options.temperature))
        with_hf = dtype == "float32"
        found = check_identity(loaded, decoders, samplings, prompts, options.new_tokens, with_hf)
        results += [{"dtype": dtype, **asdict(result)} for result in found]
    assert stamp is not None
    document = {
        "model": options.model,
        "num_prompts": options.num_prompts,
        "new_tokens": options.new_tokens,
        "device": stamp.model_dump(mode="json"),
        "command": command_line("losslessness", arguments),
        "results": results,
    }
    write_report(options.output, document, markdown)


if __name__ == "__main__":
    main()
