"""The compiled part: what it computes at every level, what it refuses, and what happens if it is missing."""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spacy_elmo.bilm import gates, kernels
from spacy_elmo.bilm.engines import ENGINES, choose
from spacy_elmo.bilm.kernels import DirectionWeights
from spacy_elmo.bilm.lstm import BidirectionalLSTMLayer, plain_recurrence

needs_compiled = pytest.mark.skipif(kernels.is_missing(), reason="built without a C compiler")
(COMPILED,) = (one for one in ENGINES if one.name == "compiled")
HEADER = Path(sysconfig.get_path("include")) / "Python.h"


@pytest.fixture(scope="module", params=kernels.instruction_sets() or [pytest.param(None, marks=needs_compiled)])
def version(request):
    """Use each version that this processor can run."""
    before = kernels.instruction_set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_chosen", request.param)
        kernels._kernels.choose(request.param)
        yield request.param
    kernels._kernels.choose(before)


@pytest.fixture
def threads():
    """Return a function that sets torch's number of threads. The old number is restored afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def make_layer(dim, width, cell_clip=3.0, proj_clip=3.0, scale=1.0, seed=0):
    layer = BidirectionalLSTMLayer(width, dim, width, cell_clip, proj_clip).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale / width**0.5)
    return layer


def compiled(layer, x, sizes=None, state=None, starts=None):
    """Return outputs, hidden and cell from the compiled part, whether or not it would be chosen."""
    with torch.inference_mode():
        y, (hidden, cell) = COMPILED.run(layer, layer.call(x, sizes or [1] * x.shape[1], state, starts))
    return y, hidden, cell


def plain(layer, x, sizes=None, state=None, starts=None):
    """Return the same from the plain recurrence."""
    with torch.inference_mode():
        y, (hidden, cell) = plain_recurrence(layer, layer.call(x, sizes or [1] * x.shape[1], state, starts))
    return y, hidden, cell


def assert_close(ours, expected, tolerance=1e-5):
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def assert_same_bits(ours, expected):
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))


def test_without_kernels_there_are_none(request):
    if request.config.getoption("--without-kernels"):
        assert kernels.is_missing()


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="for x86-64 Linux only")
@pytest.mark.skipif(shutil.which("gcc") is None or not HEADER.exists(), reason="no GCC, or no Python.h")
def test_it_is_built_where_there_is_a_compiler(request):
    if request.config.getoption("--without-kernels"):
        pytest.skip("left out by --without-kernels")
    assert not kernels.is_missing(), f"not built for {sys.version}: see what pip install -v says"


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 40),
    dim=st.integers(1, 150),
    clip=st.none() | st.floats(0.05, 3.0),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_gates_are_updated_as_by_torchs_operators(version, rows, dim, clip, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    values, inputs = (torch.randn(rows, 4 * dim, generator=generator) * scale for _ in range(2))
    cell = torch.randn(rows, dim, generator=generator)
    cells = cell.clone(), cell.clone()
    ours = kernels.update_gates(values.clone(), inputs, cells[0], clip)
    expected = gates.update_gates(values.clone(), inputs, cells[1], clip)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(cells[0], cells[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [50.0, 1e6, 1e30])
def test_saturated_gates_stay_exact(version, scale):
    layer, x = make_layer(40, 8, scale=scale), torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(1))
    assert_close(compiled(layer, x), plain(layer, x), tolerance=1e-4)


def test_nan_is_not_hidden(version):
    layer, x = make_layer(40, 8), torch.randn(2, 5, 8)
    x[0, 2, 3] = float("nan")
    ours, expected = compiled(layer, x)[0], plain(layer, x)[0]
    assert torch.equal(ours.isnan(), expected.isnan())
    assert ours[0, 2:].isnan().all()
    assert not ours[1].isnan().any()


def test_nan_stays_in_its_row(version):
    layer, x = make_layer(40, 8), torch.randn(2, 3 * 20, 8)
    x[:, 7] = float("nan")
    y, hidden, _ = compiled(layer, x, [20] * 3)
    assert y[:, [7, 27, 47]].isnan().all()
    assert hidden.isnan().any(dim=2).sum() == 2


def test_the_given_state_is_left_as_it_was(version):
    layer = make_layer(40, 8)
    state = (torch.rand(2, 1, 8), torch.rand(2, 1, 40))
    before = [part.clone() for part in state]
    compiled(layer, torch.randn(2, 5, 8), state=state)
    assert_same_bits(state, before)


def test_states_and_inputs_of_another_layout_and_type_are_read_as_they_are(version):
    layer = make_layer(40, 8)
    state = (torch.rand(1, 8, 2).permute(2, 0, 1), torch.rand(40, 1, 2, dtype=torch.float64).permute(2, 1, 0))
    x, starts = torch.randn(8, 5, 2).permute(2, 1, 0), torch.tensor([False, True] * 5)[::2].clone().roll(2)
    assert_close(
        compiled(layer, x, state=state, starts=starts), plain(layer, x, None, [part.float() for part in state], starts)
    )


def weights_of(layer):
    parts = zip(
        layer.weight, gates.with_forget_bias(layer.bias, layer.forget_bias)[:, 0], layer.projection, strict=True
    )
    return [DirectionWeights.of(*direction) for direction in parts]


@needs_compiled
def test_tensors_that_do_not_fit_are_refused_before_they_are_read():
    weights = weights_of(make_layer(40, 8))
    good = {
        "x": torch.zeros(2, 5, 8),
        "batch_sizes": [3, 2],
        "state": (torch.zeros(2, 3, 8), torch.zeros(2, 3, 40)),
        "starts": torch.zeros(5, dtype=torch.bool),
    }

    def run(**changes):
        return kernels.run_layer(weights, (None, None), **{**good, **changes})

    assert run().shape == (2, 5, 8)
    hidden, cell = good["state"]
    for bad in (torch.zeros(2, 5, 9), torch.zeros(2, 5, 8).double(), torch.zeros(2, 8, 5).mT, torch.zeros(1, 5, 8)):
        with pytest.raises(ValueError, match=r"expected|zip"):
            run(x=bad)
    few, no_row, other = (hidden[:, :2], cell), (hidden, cell[:, :2]), (hidden.double(), cell)
    for bad in (few, no_row, other, (cell, hidden), (hidden, cell[:1])):
        with pytest.raises(ValueError, match=r"contiguous float32|zip"):
            run(state=bad)
    for sizes in ([3, 3], [2, 3], [3, 2, 1], [6, -1], [4, 1], []):
        with pytest.raises(ValueError, match=r"batch sizes|contiguous float32"):
            run(batch_sizes=sizes)
    for starts in (torch.zeros(4, dtype=torch.bool), torch.zeros(5), torch.zeros(1, 5, dtype=torch.bool)):
        with pytest.raises(ValueError, match="starts"):
            run(starts=starts)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.data())
def test_products_are_those_of_float64(version, strategies, slowly, drawn):
    x, weight, bias, how = drawn.draw(strategies.operands(rows=300, n_in=60, n_out=150))
    product = kernels.CompiledProduct(weight, bias, **how)
    found, expected = product(x), slowly.product(x, weight, bias, **how)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-5)  # sums reach 30
    assert torch.equal(product(x[-1:]), found[-1:])  # the same bits for the row alone


@pytest.mark.parametrize("activation", ["none", "relu", "sigmoid"])
def test_products_do_not_hide_nan(version, activation):
    x = torch.ones(9, 20)
    x[4, 3] = float("nan")
    found = kernels.CompiledProduct(torch.ones(20, 40), None, activation)(x)
    assert found[4].isnan().all()
    assert not found[[0, 3, 5, 8]].isnan().any()


def test_threads_share_the_columns_of_a_product(version, threads):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(500, 300, generator=generator), torch.randn(300, 350, generator=generator)
    product, found = kernels.CompiledProduct(weight), []
    for n_threads in (1, 2, 3):
        threads(n_threads)
        found.append(product(x))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert torch.equal(product(x[:1]), found[0][:1])


@pytest.mark.parametrize("n_in", [95, 96, 97, 193])
def test_a_row_of_a_product_has_the_same_bits_alone_and_in_any_company(version, n_in):
    x, product = torch.randn(13, n_in), kernels.CompiledProduct(torch.randn(n_in, 70))
    alone = torch.cat([product(row[None]) for row in x])
    for rows in (6, 7, 13):
        assert torch.equal(product(x[:rows].contiguous()), alone[:rows])


@needs_compiled
def test_inputs_of_a_product_that_do_not_fit_are_refused_before_they_are_read():
    product = kernels.CompiledProduct(torch.ones(20, 40))
    for bad in (torch.zeros(3, 19), torch.zeros(20, 3).T, torch.zeros(3, 20).double()):
        with pytest.raises(ValueError, match="contiguous float32"):
            product(bad)


@needs_compiled
def test_gates_that_do_not_fit_are_refused_before_they_are_read():
    good = [torch.zeros(3, 160), torch.zeros(3, 160), torch.zeros(3, 40)]
    kernels.update_gates(*good, None)
    for bad in (torch.zeros(3, 159), torch.zeros(160, 3).T, torch.zeros(3, 160).double(), torch.zeros(2, 160)):
        for place in (0, 1):
            with pytest.raises(ValueError, match="contiguous float32"):
                kernels.update_gates(*good[:place], bad, *good[place + 1 :], None)
    with pytest.raises(ValueError, match="contiguous float32"):
        kernels.update_gates(*good[:2], torch.zeros(40, 3).T, None)


@pytest.mark.parametrize("rows", [3, 47, 75, 200])
def test_any_number_of_threads_comes_to_the_same_bits(version, threads, rows):
    layer, state = make_layer(100, 24), (torch.rand(2, rows, 24), torch.rand(2, rows, 100))
    sizes = [rows] * 4 + [max(1, rows // 2)] * 5 + [1]
    x, starts = torch.randn(2, sum(sizes), 24), torch.rand(sum(sizes)) < 0.1
    found = []
    for number in (1, 2, 3, 4):
        threads(number)
        found.append(compiled(layer, x, sizes, state, starts))
    for other in found[1:]:
        assert_same_bits(other, found[0])


def test_threads_share_the_rows_of_an_update(version, threads):
    values, inputs, cell = torch.randn(37, 4 * 512), torch.randn(37, 4 * 512), torch.randn(37, 512)
    found = []
    for number in (1, 2, 3):
        threads(number)
        cells = cell.clone()
        found.append((kernels.update_gates(values.clone(), inputs, cells, 3.0), cells))
    for other in found[1:]:
        assert_same_bits(other, found[0])


@pytest.mark.parametrize(("dim", "width"), [(70, 11), (40, 40), (1030, 40), (150, 200)])
def test_a_sequence_has_the_same_bits_alone_and_in_any_company(version, dim, width):
    """Also over hundreds of steps, and in a batch with so many rows that a step reads its inputs in another way."""
    layer, steps = make_layer(dim, width, 3.0, 1.0, scale=2.0), 300 if dim < 100 else 20
    x = torch.randn(2, steps, 60, width)
    alone = compiled(layer, x[:, :, 0])
    for rows in (2, 7, 60):
        company = compiled(layer, x[:, :, :rows].flatten(1, 2), [rows] * steps)
        assert_same_bits((company[0].unflatten(1, (steps, rows))[:, :, 0], company[1][:, :1], company[2][:, :1]), alone)


THREADS = """
import sys
from pathlib import Path
import torch
from spacy_elmo.bilm import kernels
from spacy_elmo.bilm.lstm import BidirectionalLSTMLayer

maps = Path("/proc/self/maps")
if not (maps.exists() and "libgomp" in maps.read_text(encoding="utf-8")):
    sys.exit()  # torch does not come with GNU's OpenMP here
assert kernels._kernels.HAS_THREADS
torch.set_num_threads(4)
layer, x = BidirectionalLSTMLayer(64, 256, 64).requires_grad_(False), torch.zeros(2, 40 * 50, 64)
for parameter in layer.parameters():
    parameter.zero_()
with torch.inference_mode():
    layer(x, [50] * 40)
    threads = sorted(Path("/proc/self/task").iterdir())
    for _ in range(3):
        layer(x, [50] * 40)
        layer(x[:, :40], [1] * 40)
        torch.randn(2**20).mul_(2.0)
    found = sorted(Path("/proc/self/task").iterdir())
assert found == threads, "threads were ended and begun"
"""


@needs_compiled
def test_its_threads_are_torchs_own():
    subprocess.run([sys.executable, "-c", THREADS], check=True, timeout=120)


OUT_OF_MEMORY = """
import resource
import torch
from spacy_elmo.bilm.lstm import BidirectionalLSTMLayer

layer = BidirectionalLSTMLayer(16, 4096, 16).requires_grad_(False)
for parameter in layer.parameters():
    parameter.zero_()
rows = 6000
x = torch.zeros(2, rows, 16)
cells = 2 * rows * 4096 * 4
state = torch.zeros(2, rows, 16), torch.zeros(2, rows, 4096)
with torch.inference_mode():
    before, _ = layer(x[:, :6], [6])
    used = 4096 * int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (used + cells * 3 // 2, -1))  # for a copy of the state, and half of the rest
    try:
        layer(x, [rows], state)
    except MemoryError as error:
        print(error)
    assert torch.equal(layer(x[:, :6], [6])[0], before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory of a process is limited so on Linux only")
@needs_compiled
def test_too_little_memory_is_one_clear_error():
    if kernels.instruction_set() == "generic":
        pytest.skip("torch's operators run here")
    command = [sys.executable, "-c", OUT_OF_MEMORY]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert found.stdout == "no memory for the LSTM states of 6000 sequences: lower max_batch_tokens\n"


def test_changed_weights_are_seen(version):
    layer, x = make_layer(40, 8), torch.randn(2, 5, 8)
    compiled(layer, x)
    layer.weight.mul_(1.5)
    assert_close(compiled(layer, x), plain(layer, x))


@torch.no_grad()
def test_the_generic_version_gives_way_to_torchs_operators(version):
    layer = make_layer(40, 8)
    reasons = COMPILED.reasons_against(layer, layer.call(torch.zeros(2, 1, 8), [1]))
    assert any("faster than its generic version" in reason for reason in reasons) == (version == "generic")
    assert (choose(layer, layer.call(torch.zeros(2, 1, 8), [1])) is COMPILED) == (version != "generic")


CHOSEN = "from spacy_elmo.bilm import kernels; print(kernels.instruction_set())"


def import_with(variable, code=CHOSEN):
    environment = {**os.environ, kernels.VARIABLE: variable}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


@needs_compiled
def test_a_version_that_the_environment_names_is_used():
    last = kernels.instruction_sets()[-1]
    assert import_with(last).stdout.split() == [last]


@needs_compiled
def test_the_environment_may_name_a_version_in_capitals():
    assert import_with(f" {kernels.instruction_sets()[-1].upper()} ").stdout.split() == [kernels.instruction_sets()[-1]]


@needs_compiled
def test_the_best_version_is_used_where_the_environment_names_none():
    assert import_with("").stdout.split() == kernels.instruction_sets()[:1]


@needs_compiled
def test_a_version_that_the_processor_has_not_is_one_clear_error():
    found = import_with("avx1024")
    assert found.returncode == 1
    known = ", ".join(kernels.instruction_sets())
    message = f"SPACY_ELMO_ISA is 'avx1024', expected one that this processor supports: {known}"
    assert found.stderr.splitlines()[-1] == f"spacy_elmo.errors.ElmoError: {message}"


# How the versions are compiled

LINE = re.compile(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)")


@pytest.fixture(scope="module")
def functions():
    """Return the instructions of each function of the compiled part as (address, name, operands), by function name."""
    if kernels.is_missing():
        pytest.skip("built without a C compiler")
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("for x86-64 only")
    if shutil.which("objdump") is None:
        pytest.skip("no objdump (it is in binutils)")
    command = ["objdump", "--disassemble", "--no-show-raw-insn", kernels._kernels.__file__]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found, name = defaultdict(list), ""
    for line in listing.splitlines():
        if head := re.fullmatch(r"[0-9a-f]+ <(.+)>:", line):
            name = head[1]
        elif match := LINE.fullmatch(line):
            found[name].append((int(match[1], 16), match[2], match[3]))
    if not any("multiply" in name or "update_cells" in name for name in found):
        pytest.skip("the compiled part is stripped of its names")
    return found


def of_level(functions, start, level):
    """Return the bodies of the function, including parts that the compiler split off."""
    return [one for name, body in functions.items() if re.match(rf"{start}_{level}(\.|$)", name) for one in [body]]


def loops(body):
    """Yield the instructions of each loop, from the target of a backward jump to the jump."""
    for address, name, operands in body:
        target = re.match(r"([0-9a-f]+) <", operands)
        if name.startswith("j") and target and body[0][0] <= (start := int(target[1], 16)) <= address:
            yield [one for one in body if start <= one[0] <= address]


def fused(instructions, register="[xyz]mm"):
    """Return the fused multiply-add instructions on vectors in these registers."""
    return [one for one in instructions if re.match(r"vfn?m(add|sub)\d+ps", one[1]) and re.search(register, one[2])]


@pytest.mark.parametrize(("level", "register"), [("avx512", "zmm"), ("avx2", "ymm")])
def test_sums_of_products_use_the_whole_vectors_of_the_instruction_set(functions, level, register):
    """The innermost loops use these vectors and no others."""
    bodies = of_level(functions, "multiply", level)
    assert bodies
    tight = [loop for body in bodies for loop in loops(body) if not any(len(one) < len(loop) for one in loops(loop))]
    counts = [(len(fused(loop, register)), len(fused(loop))) for loop in tight if fused(loop)]
    assert max(count for count, _ in counts) >= 6
    assert all(count == total for count, total in counts)


@pytest.mark.parametrize(("level", "register"), [("avx512", "zmm"), ("avx2", "ymm")])
def test_cells_are_updated_in_the_whole_vectors_of_the_instruction_set(functions, level, register):
    bodies = [body for start in ("update_cells", "update_strip") for body in of_level(functions, start, level)]
    assert fused([one for body in bodies for one in body], register)


def test_each_version_keeps_to_its_instruction_set(functions):
    for name, body in functions.items():
        if re.search(r"_avx2(\.|$)", name):
            assert not [one for one in body if "zmm" in one[2] or "{%k" in one[2]], name
        elif re.search(r"_generic(\.|$)", name):
            assert not [one for one in body if one[1].startswith("v")], name
