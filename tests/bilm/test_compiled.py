import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_elmo.bilm import BiLM, BiLMOptions, CharCNNOptions, LSTMOptions, compiled, lstm
from spacy_elmo.bilm.lstm import BidirectionalLSTMLayer
from spacy_elmo.bilm.packed import _HAS

needs_compiled = pytest.mark.skipif(compiled._compiled is None, reason="built without a C compiler")


def make_layer(dim, width, cell_clip=3.0, proj_clip=3.0, scale=1.0, seed=0):
    layer = BidirectionalLSTMLayer(width, dim, width, cell_clip, proj_clip).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale / width**0.5)
    return layer


def run_both(layer, x, state=None):
    """Outputs and states through the compiled part and through torch's operators."""
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        ours = layer(x, [1] * x.shape[1], state)
        patch.setattr(compiled, "_compiled", None)
        plain = layer(x, [1] * x.shape[1], state)
    return ours, plain


def assert_equal(ours, plain, tolerance=1e-5):
    (y, (hidden, cell)), (plain_y, (plain_hidden, plain_cell)) = ours, plain
    torch.testing.assert_close(y, plain_y, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(hidden, plain_hidden, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(cell, plain_cell, atol=tolerance, rtol=tolerance)


HEADER = Path(sysconfig.get_path("include")) / "Python.h"


@pytest.mark.skipif((sys.platform, platform.machine()) != ("linux", "x86_64"), reason="for x86-64 Linux only")
@pytest.mark.skipif(shutil.which("gcc") is None or not HEADER.exists(), reason="no GCC, or no Python.h")
def test_it_is_built_where_there_is_a_compiler():
    assert compiled._compiled is not None, f"not built for {sys.version}: see what pip install -v says"


@needs_compiled
@settings(deadline=None, max_examples=40)
@given(
    dim=st.integers(1, 150),
    width=st.integers(1, 140),
    steps=st.integers(1, 7),
    clips=st.tuples(*[st.none() | st.floats(0.05, 3.0)] * 2),
    with_state=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_equals_torchs_operators(dim, width, steps, clips, with_state, seed):
    layer = make_layer(dim, width, *clips, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, steps, width, generator=generator)
    state = None
    if with_state:
        state = (torch.rand(2, 1, width, generator=generator), torch.rand(2, 1, dim, generator=generator))
    assert_equal(*run_both(layer, x, state))


@needs_compiled
def test_the_state_goes_on_from_block_to_block():
    layer = make_layer(256, 16, scale=0.3)  # more than a block
    assert_equal(*run_both(layer, torch.randn(2, 300, 16, generator=torch.Generator().manual_seed(1))))


@needs_compiled
@pytest.mark.parametrize("scale", [50.0, 1e6])
def test_saturated_gates_stay_exact(scale):
    layer = make_layer(40, 8, scale=scale)
    assert_equal(*run_both(layer, torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(1))), tolerance=1e-4)


@needs_compiled
def test_nan_is_not_hidden():
    layer = make_layer(40, 8)
    x = torch.randn(2, 5, 8)
    x[0, 2, 3] = float("nan")
    ours, plain = run_both(layer, x)
    assert torch.equal(ours[0].isnan(), plain[0].isnan())
    assert ours[0][0, 2:].isnan().all()
    assert not ours[0][1].isnan().any()


@needs_compiled
def test_the_given_state_is_left_as_it_was():
    layer = make_layer(40, 8)
    state = (torch.rand(2, 1, 8), torch.rand(2, 1, 40))
    before = [part.clone() for part in state]
    run_both(layer, torch.randn(2, 5, 8), state)
    assert all(map(torch.equal, state, before))


@needs_compiled
def test_a_state_of_another_layout_and_type_is_read_as_it_is():
    layer = make_layer(40, 8)
    state = (torch.rand(1, 8, 2).permute(2, 0, 1), torch.rand(40, 1, 2, dtype=torch.float64).permute(2, 1, 0))
    assert_equal(*run_both(layer, torch.randn(2, 5, 8), state))


@needs_compiled
def test_tensors_that_do_not_fit_are_refused():
    row = compiled.SingleRow(torch.zeros(8, 160), torch.zeros(40, 8), 3.0, 3.0)
    good = [torch.zeros(5, 160), torch.zeros(8), torch.zeros(40), torch.zeros(5, 8)]
    row.prepare(*good)
    for place, bad in enumerate([torch.zeros(5, 161), torch.zeros(9), torch.zeros(40).double(), torch.zeros(8, 5).T]):
        with pytest.raises(ValueError, match="contiguous float32"):
            row.prepare(*good[:place], bad, *good[place + 1 :])
    for gates in (torch.zeros(3, 159), torch.zeros(160, 3).T, torch.zeros(3, 160).double()):
        with pytest.raises(ValueError, match="contiguous float32"):
            compiled.update_rows(gates, torch.zeros(3, 160), torch.zeros(3, 40), None)


@needs_compiled
def test_two_threads_come_to_the_same_bits_as_one():
    layer, x = make_layer(256, 64), torch.randn(2, 40, 64)
    state = (torch.rand(2, 3, 64), torch.rand(2, 3, 256))  # rows of several lengths
    sizes = [3] * 10 + [2] * 5
    before = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            with torch.inference_mode():
                found.append(layer(x, sizes, state))
    finally:
        torch.set_num_threads(before)
    for y, (hidden, cell) in found[1:]:
        assert torch.equal(y, found[0][0])
        assert torch.equal(hidden, found[0][1][0])
        assert torch.equal(cell, found[0][1][1])


THREADS = """
import sys
from pathlib import Path
import torch
from spacy_elmo.bilm import compiled
from spacy_elmo.bilm.lstm import BidirectionalLSTMLayer

maps = Path("/proc/self/maps")
if not (maps.exists() and "libgomp" in maps.read_text(encoding="utf-8")):
    sys.exit()  # torch does not come with GNU's OpenMP here
assert compiled._compiled.HAS_THREADS
torch.set_num_threads(4)
layer, x = BidirectionalLSTMLayer(64, 256, 64).requires_grad_(False), torch.zeros(2, 40, 64)
for parameter in layer.parameters():
    parameter.zero_()
with torch.inference_mode():
    layer(x, [1] * 40)
    threads = sorted(Path("/proc/self/task").iterdir())
    for _ in range(3):
        layer(x, [1] * 40)
        torch.randn(2**20).mul_(2.0)
    found = sorted(Path("/proc/self/task").iterdir())
assert found == threads, "threads were ended and begun"
"""


@needs_compiled
def test_the_two_threads_are_torchs_own():
    subprocess.run([sys.executable, "-c", THREADS], check=True, timeout=120)


@needs_compiled
def test_threads_share_rows():
    gates, inputs, cell = torch.randn(37, 4 * 512), torch.randn(37, 4 * 512), torch.randn(37, 512)
    before = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            cells = cell.clone()
            found.append((compiled.update_rows(gates.clone(), inputs, cells, 3.0), cells))
    finally:
        torch.set_num_threads(before)
    for outputs, cells in found[1:]:
        assert torch.equal(outputs, found[0][0])
        assert torch.equal(cells, found[0][1])


@needs_compiled
def test_changed_weights_are_seen():
    layer = make_layer(40, 8)
    x = torch.randn(2, 5, 8)
    run_both(layer, x)
    with torch.no_grad():
        layer.weight.mul_(1.5)
    assert_equal(*run_both(layer, x))


@needs_compiled
def test_gradients_and_other_types_take_torchs_operators(monkeypatch):
    def fail(*arguments):
        raise AssertionError("compiled part called")

    layer = make_layer(40, 8)
    monkeypatch.setattr(lstm, "run_rows", fail)
    x = torch.randn(2, 5, 8)
    layer(x, [1] * 5)  # gradients are on
    with torch.inference_mode():
        layer(torch.randn(2, 50, 8), [10] * 5)
        with pytest.raises(AssertionError, match="compiled part"):
            layer(x, [1] * 5)
        layer.double()(x.double(), [1] * 5)


@pytest.mark.skipif(not _HAS["float32"], reason="torch has no packed products on this processor")
@pytest.mark.parametrize("is_there", [pytest.param(True, marks=needs_compiled), False])
@pytest.mark.parametrize(("dim", "width"), [(96, 24), (256, 64), (1024, 128)])
def test_a_sentence_has_the_same_bits_alone_and_in_any_batch(monkeypatch, bits_tolerance, dim, width, is_there):
    """Also hundreds of times the same word: where a biLM is chaotic, the last bit of the first step would be seen."""
    if not is_there:
        monkeypatch.setattr(compiled, "_compiled", None)
    bilm = make_bilm(dim, width)
    sentences = [["a"] * 300, [""], ["a", "b"] * 20, *(f"w{i} of {i} words".split()[: 1 + i % 4] for i in range(40))]
    for number, sentence in enumerate(sentences[:6]):
        alone = encode_afresh(bilm, [sentence])[0]
        assert abs(alone[2]).max() > 0
        for company in (sentences[:2], sentences[:9], sentences):
            beside = encode_afresh(bilm, [*company, sentence])[-1]
            np.testing.assert_allclose(alone, beside, 0, bits_tolerance, err_msg=f"sentence {number} of {len(company)}")


def make_bilm(dim, width):
    layers = LSTMOptions(dim, width, n_layers=2, cell_clip=3.0, proj_clip=3.0, use_skip_connections=True)
    options = BiLMOptions(layers, CharCNNOptions(((1, 8), (2, 16), (7, 64)), n_highway=1))
    bilm = BiLM(options, seed=0).requires_grad_(False)
    for parameter in bilm.parameters():
        parameter.mul_(3)
    return bilm


def encode_afresh(bilm, sentences):
    bilm.clear_word_table()
    return bilm.encode(sentences)


@needs_compiled
@pytest.mark.parametrize(("dim", "width"), [(512, 64), (1024, 128), (2048, 256)])
def test_a_single_row_is_compiled_at_the_usual_sizes(monkeypatch, dim, width):
    called = []
    monkeypatch.setattr(lstm, "run_rows", lambda *arguments: called.append(compiled.run_rows(*arguments)))
    layer = make_layer(dim, width)
    with torch.inference_mode():
        layer(torch.randn(2, 5, width), [1] * 5)
        tried = len(called)
        layer(torch.randn(2, 5, width), [1] * 5)
    assert len(called) == tried + 1


@needs_compiled
def test_a_row_that_does_not_come_to_the_bits_of_the_products_is_not_used(monkeypatch):
    def run_and_err(rows, inputs, *others):
        compiled.run_rows(rows, [one + 1e-6 for one in inputs], *others)

    right, wrong, x = make_layer(40, 8), make_layer(40, 8), torch.randn(2, 5, 8)
    with torch.inference_mode():
        expected = right(x, [1] * 5)[0]
        monkeypatch.setattr(lstm, "run_rows", run_and_err)
        torch.testing.assert_close(wrong(x, [1] * 5)[0], expected, rtol=0, atol=1e-7)
        assert not torch.equal(right(x, [1] * 5)[0], expected)  # it was used there


@needs_compiled
def test_a_processor_with_narrow_vectors_runs_torchs_operators(monkeypatch):
    monkeypatch.setattr(compiled._compiled, "IS_FASTER", 0)
    with torch.no_grad():
        assert not compiled.can_compile(torch.zeros(1))
