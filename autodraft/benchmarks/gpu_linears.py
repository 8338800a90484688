"""Matrix products of a few rows on a CUDA device, at 16, 8 and 4 bits, beside the speed of its memory.

Run as `python -m autodraft.benchmarks.gpu_linears`; the same command goes on where an earlier one stopped. Knows
nothing of models but their shapes: weights are random. Every product walks over enough matrices to leave the caches,
captured as a CUDA graph. A row's result is also compared, to the bit, between calls of 1 and of 16 rows.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from autodraft.benchmarks.gpu_device import require_cuda
from autodraft.benchmarks.gpu_linears_table import markdown
from autodraft.benchmarks.gpu_parts import Part, earlier_parts, print_row, run_parts
from autodraft.benchmarks.gpu_products import Kernel, copies, engine_kernels, tile_kernels, torch_kernels
from autodraft.benchmarks.gpu_timing import captured_us, copy_bytes_per_s
from autodraft.benchmarks.writing import command_line, report_parser, write_report
from autodraft.measure.device import device_stamp
from autodraft.report.files import write_document

ROWS = (1, 4, 16)
FAMILIES = {"torch": torch_kernels, "autodraft": engine_kernels, "tiles": tile_kernels}
_WALK_BYTES = 256 << 20


@dataclass(frozen=True)
class Shape:
    """A model by the shapes of its matrices.

    Attributes:
        hidden, intermediate: widths of the residual stream and of an MLP.
        queries, keys: outputs of all query heads, and of all key heads.
    """

    blocks: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    vocab: int

    @property
    def layers(self) -> dict[str, tuple[int, int, int]]:
        """(outputs, inputs, how many a step has) of each product, as the engine merges them."""
        return {
            "qkv": (self.queries + 2 * self.keys, self.hidden, self.blocks),
            "o": (self.hidden, self.queries, self.blocks),
            "gate, up": (2 * self.intermediate, self.hidden, self.blocks),
            "down": (self.hidden, self.intermediate, self.blocks),
            "head": (self.vocab, self.hidden, 1),
        }


SHAPES = {
    "Llama-3.1-8B": Shape(32, 4096, 14336, 4096, 1024, 128256),
    "Llama-3.2-3B": Shape(28, 3072, 8192, 3072, 1024, 128256),
}


def part_names() -> list[str]:
    """Parts in the order of their worth, should time run out."""
    return ["bandwidth", *(f"{family}/{model}" for family in FAMILIES for model in SHAPES)]


@torch.inference_mode()
def measure_part(name: str) -> Iterator[dict[str, Any]]:
    """The rows of one part."""
    if name == "bandwidth":
        yield {"copy_bytes_per_s": copy_bytes_per_s()}
        return
    family, model = name.split("/")
    for layer, (outputs, inputs, count) in SHAPES[model].layers.items():
        weight = torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16).mul_(0.02)
        for kernel in FAMILIES[family]():
            place = {"layer": layer, "outputs": outputs, "inputs": inputs, "count": count}
            for figures in measure_kernel(kernel, weight):
                yield {**place, "kernel": kernel.name, "bits": kernel.bits, **figures}


def measure_kernel(kernel: Kernel, weight: torch.Tensor) -> Iterator[dict[str, Any]]:
    """Figures of one kernel by number of rows, or why there are none."""
    try:
        product = kernel.pack(weight)
        x = torch.randn(max(ROWS), weight.shape[1], device="cuda", dtype=torch.bfloat16)
        one, all_rows = (product.multiply(product.prepare(part), *product.tensors) for part in (x[:1], x))
        same_bits = torch.equal(one[0], all_rows[0])
        each = list(copies(product, _WALK_BYTES))
        for rows in ROWS:
            given = product.prepare(x[:rows].contiguous())
            us = captured_us([lambda p=p, g=given: p.multiply(g, *p.tensors) for p in each])  # type: ignore[misc]
            yield {"rows": rows, "us": us, "bytes": product.num_bytes, "same_bits": same_bits}
    except Exception as error:  # what a build or a device lacks shows in many ways
        yield {"left_out": (str(error).strip() or type(error).__name__).splitlines()[0]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is still missing, and write JSON and Markdown."""
    parser = report_parser("gpu_linears", __doc__, "reports/gpu-linears")
    parser.add_argument("--part-seconds", type=float, default=180, help="time limit of each part")
    parser.add_argument("--part", choices=part_names(), help="measure one part and print its rows as JSON lines")
    options = parser.parse_args(arguments)
    require_cuda()
    if options.part is not None:
        for row in measure_part(options.part):
            print_row(row)
        return
    _run(options, command_line("gpu_linears", arguments))


def _run(options: Namespace, command: str) -> None:
    device = device_stamp(torch.device("cuda"), "torch").model_dump(mode="json")
    parts = earlier_parts(options.output, device)
    document = {"device": device, "command": command, "parts": parts}
    module = [sys.executable, "-m", "autodraft.benchmarks.gpu_linears", "--part"]
    wanted = {name: Part([*module, name], options.part_seconds) for name in part_names()}

    def save() -> None:
        write_document(options.output, document, markdown)

    run_parts(wanted, parts, save)
    write_report(options.output, document, markdown)


if __name__ == "__main__":
    main()
