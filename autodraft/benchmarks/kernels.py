"""The engine's matrix products beside PyTorch's, and whole steps beside the memory-bandwidth limit.

Run as `python -m autodraft.benchmarks.kernels`. Knows nothing of acceptance. Products run on one thread and walk
over enough matrices to leave the caches; steps run on all threads, and their ceiling is the bandwidth of reading
the same machine's memory with the same threads.
"""

from __future__ import annotations

import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from autodraft.benchmarks.writing import command_line, device_line, report_parser, write_report
from autodraft.measure.device import device_stamp
from autodraft.policy import DraftPolicy
from autodraft.runtime import Rows, TransformerRuntime, load_model, native_linears
from autodraft.runtime import native_binding as binding
from autodraft.runtime.native_build import load_library

SHAPES = ((1024, 1024), (4096, 1024), (1024, 4096), (2048, 2048))
ROWS = (1, 2, 4, 8, 16)
_CACHE_BYTES = 192 << 20
_KINDS = {
    "float32": binding.KIND_F32,
    "float16": binding.KIND_F16,
    "16 bits": binding.KIND_BF16,
    "16 bits, coded": binding.KIND_CODED,
    "8 bits": binding.KIND_INT8,
    "4 bits": binding.KIND_INT4,
}


class _Activations(ctypes.Structure):
    """Mirror of `Activations` in native/linear.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("stride", ctypes.c_int32),
        ("scales", ctypes.c_void_p),
        ("corrections", ctypes.c_void_p),
    )


def median_us(calls: Sequence[Callable[[], object]], rounds: int) -> float:
    """Microseconds per call, median over rounds through all calls, one round of warm-up."""
    samples = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        for call in calls:
            call()
        samples.append((time.perf_counter() - started) / len(calls) * 1e6)
    return statistics.median(samples[1:])


def native_calls(weights: Sequence[Tensor], kind: int, x: Tensor) -> list[Callable[[], object]]:
    """One call of the engine per matrix, conversion of the activations included."""
    library = load_library()
    rows, inputs = x.shape
    packed = [native_linears.pack(weight, kind) for weight in weights]
    buffers = (torch.empty(rows, inputs + 64), torch.empty(rows), torch.empty(rows, inputs, dtype=torch.int32))
    out = torch.empty(rows, len(weights[0]))
    activations = _Activations(buffers[0].data_ptr(), 0, buffers[1].data_ptr(), buffers[2].data_ptr())

    def call(linear: native_linears.PackedLinear) -> object:
        where = ctypes.byref(linear.struct), ctypes.byref(activations)
        library.prepare(where[0], ctypes.c_void_p(x.data_ptr()), rows, inputs, where[1])
        y = ctypes.c_void_p(out.data_ptr())
        library.multiply(where[0], 0, len(weights[0]) // 16, where[1], rows, y, len(weights[0]), 0, None)
        return buffers

    return [lambda linear=linear: call(linear) for linear in packed]  # type: ignore[misc]


def torch_calls(weights: Sequence[Tensor], x: Tensor) -> dict[str, list[Callable[[], object]]]:
    """What PyTorch offers for the same product on a CPU; what this build lacks is left out."""
    half = x.bfloat16()
    calls: dict[str, list[Callable[[], object]]] = {
        "F.linear, 16 bits": [lambda w=w: F.linear(half, w) for w in weights]  # type: ignore[misc]
    }
    try:
        packed = [torch.ops.mkldnn._reorder_linear_weight(w, len(x)) for w in weights]
        pointwise = torch.ops.mkldnn._linear_pointwise
        calls["oneDNN prepacked, 16 bits"] = [lambda w=w: pointwise(half, w, None, "none", [], "") for w in packed]  # type: ignore[misc]
        torch.backends.quantized.engine = "fbgemm"
        quantized = [
            torch.ops.quantized.linear_prepack(torch.quantize_per_tensor(w.float(), 0.01, 0, torch.qint8), None)
            for w in weights
        ]
        dynamic = torch.ops.quantized.linear_dynamic
        calls["fbgemm dynamic, 8 bits"] = [lambda w=w: dynamic(x, w) for w in quantized]  # type: ignore[misc]
    except (AttributeError, RuntimeError, NotImplementedError) as error:
        print(f"left out: {str(error).splitlines()[0]}", file=sys.stderr)
    return calls


@torch.inference_mode()
def measure_products(rounds: int) -> list[dict[str, Any]]:
    """Microseconds of every product by shape, rows and kernel, on one thread."""
    results = []
    kinds = {name: kind for name, kind in _KINDS.items() if kind != binding.KIND_CODED or load_library().reads_codes()}
    for outputs, inputs in SHAPES:
        count = max(2, _CACHE_BYTES // (2 * outputs * inputs))
        weights = [torch.randn(outputs, inputs).mul_(0.02).bfloat16() for _ in range(count)]
        for rows in ROWS:
            x = torch.randn(rows, inputs)
            calls = {f"engine, {name}": native_calls(weights, kind, x) for name, kind in kinds.items()}
            calls |= torch_calls(weights, x)
            times = {name: median_us(each, rounds) for name, each in calls.items()}
            results.append({"outputs": outputs, "inputs": inputs, "rows": rows, "us": times})
            print(f"{outputs} x {inputs}, {rows} rows: {times}", file=sys.stderr)
    return results


def read_bandwidth() -> float:
    """Bytes per second of summing up a buffer far larger than the caches, with all threads; best of several."""
    buffer = torch.ones(128 << 20, dtype=torch.int32)
    best = min(_seconds(lambda: buffer.sum(dtype=torch.int32)) for _ in range(8))
    return buffer.nbytes / best


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure_steps(runtime: TransformerRuntime, context: int, rounds: int) -> list[dict[str, Any]]:
    """Whole forwards by bits and rows, with the weights that they read."""
    cache = runtime.new_cache()
    runtime.prefill(cache, [token % runtime.spec.vocab_size for token in range(context)])
    steps = []
    for bits in runtime.available_bits:
        plan = runtime.plan(DraftPolicy.uniform(runtime.spec.num_blocks, bits))
        for count in ROWS if bits == 16 else (1,):
            rows = Rows.chain(list(range(count)), context)
            us = median_us([lambda plan=plan, rows=rows: runtime.forward(plan, cache, rows)], rounds)  # type: ignore[misc]
            steps.append({"bits": bits, "rows": count, "ms": us / 1e3, "weight_bytes": plan.payload.matrix_bytes})
    return steps


def markdown(document: Mapping[str, Any]) -> str:
    """The report as a person reads it."""
    lines = ["# Kernels and steps of the native engine", "", device_line(document["device"])]
    lines += [f"Command: `{document['command']}`", "", "## Matrix products, one thread, microseconds", ""]
    names = list(document["products"][0]["us"])
    lines += [f"| outputs x inputs | rows | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    for row in document["products"]:
        cells = " | ".join(f"{row['us'][name]:.0f}" if name in row["us"] else "" for name in names)
        lines.append(f"| {row['outputs']} x {row['inputs']} | {row['rows']} | {cells} |")
    lines += ["", f"## Whole steps, context {document['context']}, all threads", ""]
    lines += [f"Memory read with the same threads: {document['read_bytes_per_s'] / 1e9:.1f} GB/s."]
    lines += [
        "",
        "| model | bits | rows | ms | over one row | GB/s of weights | of the read bandwidth |",
        "|---" * 7 + "|",
    ]
    for model in document["models"]:
        step_ms = model["steps"][0]["ms"]
        for step in model["steps"]:
            rate = step["weight_bytes"] / step["ms"] * 1e3
            lines.append(
                f"| `{document['model']}` x{model['widen']} | {step['bits']} | {step['rows']} | {step['ms']:.2f} |"
                f" {step['ms'] / step_ms:.2f} | {rate / 1e9:.1f} | {rate / document['read_bytes_per_s']:.0%} |"
            )
    lines += ["", "A model that fits into the caches can read faster than memory; its share is then above 100 %."]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write JSON and Markdown."""
    parser = report_parser("kernels", __doc__, "reports/kernels")
    parser.add_argument("--model", default="llama")
    parser.add_argument("--widen", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    models = []
    for factor in options.widen:
        loaded = load_model(options.model, widen=factor, backend="native")
        models.append({"widen": factor, "steps": measure_steps(loaded.runtime, options.context, options.rounds)})
    bandwidth = read_bandwidth()
    stamp = device_stamp(loaded.runtime.device, loaded.runtime.backend)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    products = measure_products(max(options.rounds // 3, 3))
    torch.set_num_threads(threads)
    document = {
        "model": options.model,
        "context": options.context,
        "device": stamp.model_dump(mode="json"),
        "command": command_line("kernels", arguments),
        "read_bytes_per_s": bandwidth,
        "models": models,
        "products": products,
    }
    write_report(options.output, document, markdown)


if __name__ == "__main__":
    main()
