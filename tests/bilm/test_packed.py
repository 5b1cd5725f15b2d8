"""Weights packed for frozen layers: they are kept while the weights do not change. Also when packed products are
used."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch

from spacy_elmo.bilm.char_cnn import Highway
from spacy_elmo.bilm.packed import Packed
from spacy_elmo.bilm.products import _HAS

needs_products = pytest.mark.skipif(not all(_HAS.values()), reason="torch has no packed products on this processor")


@pytest.fixture
def parameter():
    return torch.nn.Parameter(torch.ones(2, 2), requires_grad=False)


@pytest.fixture
def get(parameter):
    """Return a function that asks a holder for the sum of the parameter."""
    holder = Packed()

    def get(is_wanted=True, which=holder):
        return which.get([parameter], lambda: parameter.sum().item(), is_wanted)

    get.holder = holder
    return get


def test_content_is_kept_until_the_parameters_change(get, parameter):
    contents = [get(), get()]
    with torch.no_grad():
        parameter.mul_(2)
    assert [*contents, get(is_wanted=False), get()] == [4, 4, None, 8]


def test_training_forgets_the_content_even_where_the_optimizer_leaves_no_trace(get, parameter):
    assert get() == 4
    parameter.requires_grad_()
    assert get(is_wanted=False) is None
    parameter.data.mul_(2)  # does not change the version
    parameter.requires_grad_(False)
    assert get() == 8


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_start_empty(get, duplicate):
    get()
    copied = duplicate(get.holder)
    assert not copied._contents
    assert get(which=copied) == 4


@needs_products
@torch.no_grad()
def test_other_types_gradients_and_training_use_plain_products():
    highway = Highway(4).requires_grad_(False)
    x = torch.zeros(1, 4)
    assert highway.packed(x)
    assert not highway.packed(x.double())
    with torch.enable_grad():
        assert not highway.packed(x)
    assert not highway.requires_grad_().packed(x)


@needs_products
@torch.no_grad()
def test_reduced_precision_is_packed():
    highway = Highway(4).requires_grad_(False)
    highway.set_precision("float16")
    assert highway.carry_weight.dtype == torch.float16
    assert highway.carry_bias.dtype == torch.float32
    assert highway.packed(torch.zeros(1, 4))


SPAWNED = """
import torch
import torch.multiprocessing
from spacy_elmo.bilm.lstm import BidirectionalLSTMLayer
from spacy_elmo.bilm.kernels import reasons_against_kernels
from spacy_elmo.bilm.products import reasons_against_packing


@torch.inference_mode()
def run(layers, x):
    return [(layer(x, [3])[0].numpy(), bool(layer._packed._contents)) for layer in layers]


def answer(layers, x, queue):
    queue.put(run(layers, x))


if __name__ == "__main__":
    context = torch.multiprocessing.get_context("spawn")
    layers = [BidirectionalLSTMLayer(64, dim, 64).requires_grad_(False) for dim in (64, 20_000)]
    for layer in layers:
        layer.initialize(torch.Generator().manual_seed(0))
    x, queue = torch.randn(2, 3, 64), context.Queue()
    child = context.Process(target=answer, args=(layers, x, queue))
    child.start()
    theirs = queue.get()
    child.join()
    ours = run(layers, x)
    with torch.no_grad():
        packs = not (reasons_against_kernels(x) and reasons_against_packing(x, "float32"))
    assert [is_packed for _, is_packed in ours] == [packs, packs]
    assert [is_packed for _, is_packed in theirs] == [packs, False]  # the large one would be there once more
    for (one, _), (other, _) in zip(ours, theirs):
        assert abs(one - other).max() < 1e-5
"""


def test_a_spawned_process_makes_no_copy_of_large_weights_that_it_shares(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SPAWNED)
    subprocess.run([sys.executable, script], check=True, timeout=120)
