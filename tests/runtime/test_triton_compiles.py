"""The GPU's compiler takes the Triton kernels and makes of them what they are meant to be; that needs no GPU."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

if find_spec("triton") is None:
    pytest.skip("Triton is not installed; PyTorch's CUDA builds for Linux bring it along", allow_module_level=True)

# A process of its own: others run Triton's interpreter, which is chosen when a kernel is defined.
_PROGRAM = """
import importlib, json, sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

def compiled(module, name, types, constants, capability, warps, stages):
    kernel = getattr(importlib.import_module("autodraft.runtime." + module), name)
    signature = {each: "constexpr" if each in constants else types.get(each, "i32") for each in kernel.arg_names}
    aligned = [each for each, kind in signature.items() if kind != "constexpr" and each != "rows"]
    attributes = {(kernel.arg_names.index(each),): [["tt.divisibility", 16]] for each in aligned}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": warps, "num_stages": stages}
    return compile(source, target=GPUTarget("cuda", capability, 32), options=options)

kernels = [compiled(*variant) for variant in json.loads(sys.argv[1])]
print(json.dumps([[kernel.asm["ptx"], kernel.metadata.shared] for kernel in kernels]))
"""


def compiled(tmp_path, variants):
    """(program, bytes of shared memory) of each."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", _PROGRAM, json.dumps(variants)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def product(bits, kind, capability, whole, in_planes=False, activation=None):
    from autodraft.runtime.triton_linear import TILES, full_tile

    tile = TILES[bits] if bits < 16 else full_tile(4096, 132)
    types = {"x": "*" + kind, "weight": {16: "*" + kind, 8: "*i8", 4: "*i32"}[bits], "bias": "*fp32", "y": "*fp32"}
    types |= {"scale": "*" + (kind if bits == 4 else "fp32")} | ({"y": "*" + kind} if activation else {})
    constants = {
        "BLOCK_OUTPUTS": tile.outputs,
        "WHOLE_TILES": whole,
        "ADD": activation is None,
        "ACTIVATION": activation,
        "GATED": activation == "silu",
        "EARLY": capability >= 90,
        "LINES": tile.ahead,
    }
    if bits == 4:
        constants |= {"BLOCK_GROUPS": tile.inputs // 32}
        return ["triton_kernels", "per_group", types, constants, capability, tile.warps, tile.stages]
    constants |= {"BLOCK_INPUTS": tile.inputs}
    types |= {"weight": "*i8", "lower": "*i8"} if in_planes else {}
    constants |= {"scale": None} if bits == 16 or in_planes else {}
    constants |= {} if bits == 16 and in_planes else {"lower": None}
    return ["triton_kernels", "per_channel", types, constants, capability, tile.warps, tile.stages]


def row_product(bits, kind, capability, whole):
    from autodraft.runtime.triton_linear import row_tile

    tile = row_tile(bits, 4096)
    types = {"x": "*i32", "x_scale": "*fp32", "correction": "*i32", "weight": "*i32", "bias": "*fp32", "y": "*fp32"}
    types |= {"scale": "*" + (kind if bits == 4 else "fp32")}
    constants = {
        "BLOCK_OUTPUTS": tile.outputs,
        "BLOCK_GROUPS": tile.inputs // 32,
        "WHOLE_TILES": whole,
        "ADD": True,
        "EARLY": capability >= 90,
        "NATIVE": True,
    }
    name = "row_per_group" if bits == 4 else "row_per_channel"
    return ["triton_row_kernels", name, types, constants, capability, tile.warps, 1]


def test_weights_travel_by_16_bytes_to_tensor_cores(tmp_path):
    variants = [  # bits, type of the inputs, compute capability, whether tiles are whole, weights in planes, activation
        *((16, "bf16", 90, True), (8, "bf16", 90, True), (4, "bf16", 90, True)),
        *((8, "fp16", 80, False), (4, "fp16", 80, False), (4, "fp32", 80, True)),
        *((16, "fp16", 90, True, True), (8, "fp16", 90, True, True), (16, "fp16", 80, False, True)),
        *(
            (16, "bf16", 90, True, False, "silu"),
            (8, "bf16", 80, True, False, "relu"),
            (4, "bf16", 90, False, False, "silu"),
        ),
    ]
    programs = compiled(tmp_path, [product(*variant) for variant in variants])
    for (_, kind, *_), (program, shared_bytes) in zip(variants, programs, strict=True):
        assert "cp.async.cg.shared.global" in program  # 16 bytes at a time, past the first-level cache
        assert shared_bytes <= 112 << 10  # two programs fit on a multiprocessor
        if kind != "fp32":
            assert f"mma.sync.aligned.m16n8k16.row.col.f32.{kind.replace('fp', 'f')}" in program


def test_a_single_row_multiplies_whole_words(tmp_path):
    variants = [(8, "bf16", 90, True), (4, "bf16", 90, True), (8, "fp16", 80, False), (4, "fp32", 80, False)]
    for program, _ in compiled(tmp_path, [row_product(*variant) for variant in variants]):
        assert "cp.async.cg.shared.global" in program or "ld.global.v4.b32" in program  # 16 bytes at a time
        assert "dp4a.s32.s32" in program


def test_what_lies_between_products_compiles(tmp_path):
    pointers = {"hidden": "*fp32", "x": "*fp32", "weight": "*fp32", "bias": "*fp32", "y": "*bf16", "eps": "fp32"}
    pointers |= {"projected": "*fp32", "cos": "*fp32", "sin": "*fp32", "query_norm": "*fp32", "key_norm": "*fp32"}
    pointers |= dict.fromkeys(["keys", "values", "out"], "*bf16")
    pointers |= dict.fromkeys(["mixed", "highest", "sums"], "*fp32")
    pointers |= {"scores": "*fp32", "best": "*fp32", "token": "*i64", "found": "*fp32"}
    pointers |= dict.fromkeys(["numbers", "row", "drafted", "next_numbers"], "*i64") | {"next_mask": "*u8"}
    pointers |= {"channels": "*i64", "slots": "*i64", "mask": "*u8", "scale": "fp32"}
    pointers |= {"starts": "*i32", "paths": "*i32"}
    pointers |= {"tokens": "*i64", "positions": "*i64", "embedding": "*bf16", "frequencies": "*fp32"}
    pointers |= {"floors": "*i64", "scales": "*fp32", "cap": "fp32"}
    pointers |= {"embedding_scale": "fp32"}
    plain = {"x_scale": None, "correction": None}
    kernels = {
        "begin": {"ROTATIONS": 2, "BLOCK": 1024, "learned": None},
        "normalise": {"CENTRED": False, "BLOCK": 4096, "bias": None, **plain},
        "attend_splits": {
            **{"GROUP": 4, "HEAD_DIM": 128, "ROTATED": 96, "PAIRS": False, "NORM_LAST": False},
            **{"LINES": 16, "KEY_LINES": 2},
        },
        "join_splits": {"HEAD_DIM": 128, **plain},
        "add_normed": {"BLOCK": 4096},
        "norm_jointly": {"BLOCK": 4096},
        "activate": {"GATED": True, "ACTIVATION": "gelu", "BLOCK": 1024, **plain},
        "best_of_chunks": {"CHUNK": 2048},
        "extend_chain": {"BLOCK": 64, "KEYS": 1024},
    }
    modules = dict.fromkeys(kernels, "triton_fused") | dict.fromkeys(
        ["attend_splits", "join_splits"], "triton_attention"
    )
    unrotated = {**kernels["attend_splits"], "ROTATED": 0, "EARLY": True}
    unrotated |= dict.fromkeys(["cos", "sin", "query_norm", "key_norm", "floors", "cap"])
    wide = {**kernels["attend_splits"], "HEAD_DIM": 256, "ROTATED": 256, "PAIRS": True, "KEY_LINES": 4, "EARLY": True}
    wide |= {"NORM_LAST": True}
    variants = [(unrotated, 4), (wide, 8)]
    attention = [["triton_attention", "attend_splits", pointers, each, 90, warps, 3] for each, warps in variants]
    assert all(".local." not in program for program, _ in compiled(tmp_path, attention))
    rounded = {"y": "*i8", "out": "*i8", "x_scale": "*fp32", "correction": "*i32"}
    for name in ("normalise", "join_splits", "activate"):
        constants = {each: value for each, value in kernels[name].items() if each not in plain} | {"EARLY": True}
        compiled(tmp_path, [[modules[name], name, pointers | rounded, constants, 90, 4, 3]])
    variants = [
        [modules[name], name, pointers, {**constants, **({} if name == "begin" else {"EARLY": True})}, 90, 4, 3]
        for name, constants in kernels.items()
    ]
    programs = dict(zip(kernels, compiled(tmp_path, variants), strict=True))
    assert "mma" in programs["attend_splits"][0]
    del programs["begin"]  # sines of large angles take some memory
    assert all(".local." not in program for program, _ in programs.values())  # nothing spills into it
