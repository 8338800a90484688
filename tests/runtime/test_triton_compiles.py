"""The GPU's compiler takes the Triton kernels and makes of them what they are meant to be; that needs no GPU."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

if find_spec("triton") is None:
    pytest.skip("Triton is not installed; PyTorch's CUDA builds for Linux bring it along", allow_module_level=True)

VARIANTS = [  # bits, type of the activations, compute capability, whether tiles are whole
    (16, "bf16", 90, True),
    (8, "bf16", 90, True),
    (4, "bf16", 90, True),
    (8, "fp16", 80, False),
    (4, "fp16", 80, False),
    (4, "fp32", 80, True),
]

# A process of its own: others run Triton's interpreter, which is chosen when a kernel is defined.
_PROGRAM = """
import json, sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from autodraft.runtime.triton_kernels import per_channel, per_group
from autodraft.runtime.triton_linear import TILES

def compiled(bits, kind, capability, whole):
    kernel, tile = per_group if bits == 4 else per_channel, TILES[bits]
    types = {"x": "*" + kind, "weight": {16: "*" + kind, 8: "*i8", 4: "*i16"}[bits], "bias": "*fp32", "y": "*fp32"}
    types |= {"scale": "*" + (kind if bits == 4 else "fp32")}
    types |= dict.fromkeys(["rows", "outputs", "inputs", "groups"], "i32")
    sizes = {"BLOCK_OUTPUTS": tile.outputs, "BLOCK_INPUTS": tile.inputs, "BLOCK_GROUPS": tile.inputs // 32}
    given = {name: value for name, value in {**sizes, "WHOLE_TILES": whole}.items() if name in kernel.arg_names}
    if bits == 16:
        given["scale"] = None
    signature = {name: "constexpr" if name in given else types[name] for name in kernel.arg_names}
    aligned = [name for name in kernel.arg_names if signature[name] != "constexpr" and name != "rows"]
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(kernel, signature, constexprs=given, attrs=attributes)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    return compile(source, target=GPUTarget("cuda", capability, 32), options=options)

kernels = [compiled(*variant) for variant in json.loads(sys.argv[1])]
print(json.dumps([[kernel.asm["ptx"], kernel.metadata.shared] for kernel in kernels]))
"""


def test_weights_travel_by_16_bytes_to_tensor_cores(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", _PROGRAM, json.dumps(VARIANTS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for (_, kind, _, _), (program, shared_bytes) in zip(VARIANTS, json.loads(done.stdout), strict=True):
        assert "cp.async.cg.shared.global" in program  # 16 bytes at a time, past the first-level cache
        assert shared_bytes <= 80 << 10  # two programs fit on a multiprocessor
        if kind != "fp32":
            assert f"mma.sync.aligned.m16n8k16.row.col.f32.{kind.replace('fp', 'f')}" in program
