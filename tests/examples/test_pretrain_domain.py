"""The example in examples/pretrain_domain, on a few texts and with a tiny model."""

import csv
import importlib.util
import re
import sys
from itertools import islice
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pretrain_domain"
TINY = """
[model]
dim = 16
projection_dim = 8
filters = [[1, 8], [2, 8]]
[training]
n_epochs = 2
batch_size = 4
unroll_steps = 10
n_negative_samples_batch = 0
"""


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("pretrain_domain", EXAMPLE / "pretrain_domain.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look it up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_example_goes_from_csv_to_distances(example, tmp_path, monkeypatch, capsys):
    with (EXAMPLE / "banking.csv").open(encoding="utf-8", newline="") as source:
        (tmp_path / "some.csv").write_text("".join(islice(source, 61)), encoding="utf-8")
    (tmp_path / "tiny.cfg").write_text(TINY)
    options = ["--csv", str(tmp_path / "some.csv"), "--config", str(tmp_path / "tiny.cfg")]
    monkeypatch.setattr(sys, "argv", ["pretrain_domain.py", str(tmp_path / "out"), *options])
    monkeypatch.setattr(example, "keep_freed_memory", lambda: None)  # it would last for all later tests
    example.main()
    printed = capsys.readouterr().out
    assert printed.startswith("60 texts from some.csv\n")
    assert re.search(r"^held out +3 documents", printed, re.MULTILINE)
    rows = dict(re.findall(r"^(\S.*?)  +([\d.]+)", printed, re.MULTILINE))
    uniform, frequencies = float(rows["any word is as likely"]), float(rows["frequent words are likelier"])
    assert uniform > frequencies > 1
    assert uniform > float(rows["the model, epoch 1"]) > float(rows["the model, epoch 2"]) > 1
    assert {"PIN / passcode", "used alike, mean of 7", "one of them outside, mean of 84", *example.SENSES} <= set(rows)


def test_distances_are_those_of_the_textbook(example):
    a, b, c = (example.np.array(values, dtype="f4") for values in ([3, 0], [0, 4], [6, 0]))
    assert example.Distance.between(a, b) == example.Distance(1.0, 5.0)
    assert example.Distance.between(a, c) == example.Distance(0.0, 3.0)
    assert example.Distance.mean([example.Distance(1, 5), example.Distance(0, 3)]) == example.Distance(0.5, 4.0)


def test_corpus_is_the_extract_that_is_described(example):
    with (EXAMPLE / "banking.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert f"{len(rows):,} of 10,003" in (EXAMPLE / "SOURCE.md").read_text(encoding="utf-8")
    assert max(len(row["text"]) for row in rows) <= 80
    words = {word for row in rows for word in re.findall(r"\w+", row["text"])}
    assert not words & set(example.OUTSIDE)
    texts = {row["text"] for row in rows}
    assert not texts & {sentence for sentences in example.SENSES.values() for sentence in sentences}
