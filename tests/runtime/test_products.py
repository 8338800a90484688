"""The engine's matrix products on every instruction set: against PyTorch, row by row, and tiles against vectors."""

import ctypes
import shutil

import pytest
import torch

from autodraft.runtime import native_binding as binding
from autodraft.runtime.byte_planes import BytePlanes
from autodraft.runtime.native_build import compile_library, load_library
from autodraft.runtime.native_linears import pack, pack_planes
from autodraft.runtime.quantization import fake_quantize

KINDS = {
    "float32": binding.KIND_F32,
    "float16": binding.KIND_F16,
    "16 bits": binding.KIND_BF16,
    "8 bits": binding.KIND_INT8,
    "4 bits": binding.KIND_INT4,
}
ROWS = (1, 2, 3, 4, 5, 8, 9, 12, 14, 15, 16, 17, 31, 32, 33, 40, 65, 97, 130)
SHAPES = ((16, 32), (48, 96), (100, 80), (208, 1056), (16, 16))


class _Activations(ctypes.Structure):
    """Mirror of `Activations` in native/linear.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("stride", ctypes.c_int32),
        ("scales", ctypes.c_void_p),
        ("corrections", ctypes.c_void_p),
    )


class _Next(ctypes.Structure):
    """Mirror of `Next` in native/linear.h."""

    _fields_ = (("linear", ctypes.c_void_p), ("panel", ctypes.c_int32))


def product(library, linear, x, out=None, first=0, following=None):
    """W x of every row, from panel `first` on; added to `out` where it is given; before another product or none."""
    rows, inputs = x.shape
    buffers = [
        torch.full((rows, inputs + 64), float("nan")),
        torch.empty(rows),
        torch.empty(rows, inputs, dtype=torch.int32),
    ]
    activations = _Activations(buffers[0].data_ptr(), 0, buffers[1].data_ptr(), buffers[2].data_ptr())
    add = out is not None
    out = torch.zeros(rows, linear.padded_outputs) if out is None else out.clone()
    where = ctypes.byref(linear.struct), ctypes.byref(activations)
    library.prepare(where[0], ctypes.c_void_p(x.data_ptr()), rows, inputs, where[1])
    panels, y = linear.padded_outputs // binding.LANES, ctypes.c_void_p(out.data_ptr())
    library.multiply(
        where[0],
        first,
        panels,
        where[1],
        rows,
        y,
        linear.padded_outputs,
        int(add),
        following and ctypes.byref(following),
    )
    return out


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """The engine built without tile registers."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not load_library().tiles_serve(binding.KIND_BF16, 1):
        pytest.skip("this processor has no tile registers: both engines would be the same")
    path = tmp_path_factory.mktemp("engine") / "vectors.so"
    compile_library(compiler, path, ["-mno-amx-tile"])
    return ctypes.CDLL(str(path))


def _case(shape, kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    outputs, inputs = shape
    weight = torch.randn(outputs, inputs, generator=generator) * 0.1
    bias = torch.randn(outputs, generator=generator)
    return weight, bias, pack(weight, KINDS[kind], bias), torch.randn(max(ROWS), inputs, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_those_of_pytorch(library, kind, shape):
    weight, bias, linear, x = _case(shape, kind)
    bits = {"8 bits": 8, "4 bits": 4}.get(kind)
    effective = weight if bits is None else fake_quantize(weight, bits)
    effective = weight.half().float() if kind == "float16" else effective
    expected = x.double() @ effective.double().T + bias
    relative = {"float32": 1e-5, "float16": 1e-5, "16 bits": 2e-2, "8 bits": 5e-2, "4 bits": 5e-2}[kind]
    tolerance = relative * expected.std()
    for rows in ROWS:
        found = product(library, linear, x[:rows])[:, : shape[0]]
        assert (found - expected[:rows]).abs().max() < tolerance


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_does_not_depend_on_the_others(library, kind, shape):
    _, _, linear, x = _case(shape, kind, seed=1)
    start = torch.randn(max(ROWS), linear.padded_outputs)
    alone = torch.cat([product(library, linear, x[row : row + 1], start[row : row + 1]) for row in range(max(ROWS))])
    for rows in ROWS:
        assert torch.equal(product(library, linear, x[:rows], start[:rows]), alone[:rows])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float16_gives_the_bits_of_float32(library, shape):
    """Of numbers that both hold, down to the smallest ones."""
    weight, bias, _, x = _case(shape, "float32", seed=4)
    smallest = 2.0**-24
    weight[0, :4] = torch.tensor([smallest, -3 * smallest, 65504.0, 0.0])
    exact = weight.half().float()
    wide, half = (pack(exact, kind, bias) for kind in (binding.KIND_F32, binding.KIND_F16))
    for rows in ROWS:
        assert torch.equal(product(library, wide, x[:rows]), product(library, half, x[:rows]))


@pytest.mark.parametrize("shape", (*SHAPES, (48, 33)), ids=str)
def test_planes_give_the_bits_of_float16_and_the_upper_one_those_of_its_values(library, shape):
    weight, bias, _, x = _case(shape, "float32", seed=5)
    planes = BytePlanes.of(weight.half().float())
    both = pack_planes(planes, bias)
    half, upper = (pack(part, binding.KIND_F16, bias) for part in (planes.joined(), planes.upper_values))
    start = torch.randn(max(ROWS), both.padded_outputs)
    for rows in ROWS:
        for found, expected in ((both, half), (both.upper, upper)):
            found, expected = (product(library, each, x[:rows], start[:rows]) for each in (found, expected))
            assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", (*SHAPES, (256, 256), (304, 64)), ids=str)
def test_coded_weights_give_the_bits_of_those_they_stand_for(library, shape):
    """With numbers of any size among them, as far as they are few."""
    if not library.reads_codes():
        pytest.skip("this engine does not read codes")
    weight, bias, _, x = _case(shape, "16 bits", seed=6)
    weight[0, :4] = torch.tensor([1e-40, -0.0, 3e38, -1e-38])
    weight[-1, -1] = 1e-20
    plain = pack(weight, binding.KIND_BF16, bias)
    coded = [pack(weight, binding.KIND_CODED, bias, cached=cached) for cached in (False, True)]
    start = torch.randn(max(ROWS), plain.padded_outputs)
    assert coded[0].struct.kind == binding.KIND_CODED or shape[0] * shape[1] < 2000
    for rows in ROWS:
        for first in (0, 1):
            expected = product(library, plain, x[:rows], start[:rows], first)
            for each in coded:
                assert torch.equal(product(library, each, x[:rows], start[:rows], first), expected)


@pytest.mark.parametrize("shape", [(208, 1056), (48, 96), (100, 80)], ids=str)
def test_what_is_multiplied_next_changes_no_bit(library, shape):
    weight, bias, _, x = _case(shape, "16 bits", seed=7)
    linears = [pack(weight, kind, bias) for kind in KINDS.values()]
    if library.reads_codes():
        linears += [pack(weight, binding.KIND_CODED, bias, cached=cached) for cached in (False, True)]
    for linear in linears:
        for rows in (1, 2, 4, 5, 8, 13):
            expected = product(library, linear, x[:rows])
            for other in linears:
                following = _Next(ctypes.addressof(other.struct), 1)
                assert torch.equal(product(library, linear, x[:rows], following=following), expected)


def test_of_many_rows_a_row_does_not_depend_on_the_others_either(library):
    """A prefill takes some panels at a time where tiles do not hold the sums of all rows."""
    weight, bias, _, x = _case((672, 1056), "16 bits", seed=8)
    linears = [pack(weight, kind, bias) for kind in KINDS.values()]
    if library.reads_codes():
        linears.append(pack(weight, binding.KIND_CODED, bias))
    for linear in linears:
        for first in (0, 1):
            expected = torch.cat([product(library, linear, x[row : row + 13], first=first) for row in range(0, 65, 13)])
            assert torch.equal(product(library, linear, x[:65], first=first), expected)


@pytest.mark.parametrize("kind", ["8 bits", "4 bits"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tiles_give_the_bits_of_vectors_where_sums_are_exact(vectors, kind, shape):
    _, _, linear, x = _case(shape, kind, seed=2)
    for rows in ROWS:
        assert torch.equal(product(load_library(), linear, x[:rows]), product(vectors, linear, x[:rows]))


def test_tiles_and_vectors_round_16_bits_alike_to_a_few_ulp(vectors):
    _, _, linear, x = _case((208, 1056), "16 bits", seed=3)
    tiles, other = product(load_library(), linear, x), product(vectors, linear, x)
    assert (tiles - other).abs().max() < 1e-5 * other.abs().max()
