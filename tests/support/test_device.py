"""Which torch device is chosen, on machines with different numbers of GPUs."""

import pytest
import torch

from spacy_elmo import ElmoError
from spacy_elmo.errors import PretrainingError
from spacy_elmo.support.device import choose_device


@pytest.fixture
def gpus(monkeypatch):
    """Return a function that makes torch see this many GPUs."""

    def set_number(n):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n)

    return set_number


@pytest.mark.parametrize(
    ("n", "name", "chosen"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (1, "auto", "cuda"),
        (1, "cpu", "cpu"),
        (1, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_the_device_is_the_one_that_is_named(gpus, n, name, chosen):
    gpus(n)
    assert choose_device(name) == torch.device(chosen)


@pytest.mark.parametrize(
    ("n", "name", "message"),
    [
        (0, "cuda", 'device is \'cuda\', but torch sees no GPU here; use "auto" or "cpu"'),
        (2, "cuda:2", "device is 'cuda:2', but torch sees only 2 GPU here"),
        (1, "gpu", 'device is \'gpu\', expected "auto", "cpu"'),
        (1, "mps", 'device is "mps", the GPU of a Mac, but torch sees none here'),
        (1, "xpu", "device is 'xpu', expected"),
        (1, "", "device is '', expected"),
        (1, "cpu:x", "device is 'cpu:x', expected"),
    ],
)
def test_another_one_is_an_error_that_names_the_setting(gpus, n, name, message):
    gpus(n)
    with pytest.raises(ElmoError, match=message):
        choose_device(name)
    with pytest.raises(PretrainingError, match=f"\\[training\\] {message}"):
        choose_device(name, "[training] device", PretrainingError)


def test_the_gpu_of_a_mac_is_taken_when_it_is_asked_for(gpus, monkeypatch):
    gpus(0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps") == torch.device("mps")
    assert choose_device("auto") == torch.device("cpu")
