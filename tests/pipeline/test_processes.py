"""Each case runs in an interpreter of its own: how processes start is a setting of the whole process."""

import json
import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest
import spacy

SCRIPT = """
import json, multiprocessing, warnings
import torch
import spacy
from spacy_elmo import restore_hooks

TEXTS = {texts!r}

if __name__ == "__main__":
    torch.set_num_threads(2)  # a pool of threads, which no forked process inherits alive
    multiprocessing.set_start_method({method!r})
    warnings.simplefilter("ignore")
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("elmo", config={{"keep_layers": True}})
    torch.zeros(4_000_000).add_(1)  # the parent has used torch's threads before it starts others
    if {loaded!r}:
        list(nlp.pipe(TEXTS * 20))
    docs = list(nlp.pipe(TEXTS, n_process=2, batch_size=2))
    free = docs[0][5]._.elmo_similarity(docs[1][4])
    for doc in docs:
        restore_hooks(doc)
    json.dump({{
        "vectors": [doc._.elmo.tolist() for doc in docs],
        "layers": [doc._.elmo_layers.shape for doc in docs],
        "free": free,
        "hooked": docs[0][5].similarity(docs[1][4]),
    }}, open({out!r}, "w"))
"""

TEXTS = ["I deposited money at the bank.", "We sat on the bank. It rained.", "", " ", "one two three"]


@pytest.mark.parametrize(
    ("method", "loaded"),
    [
        ("fork", True),
        ("fork", False),
        ("spawn", True),
        pytest.param("spawn", False, marks=pytest.mark.slow),
        ("forkserver", True),
    ],
)
def test_two_processes_give_the_same_vectors(method, loaded, tmp_path, bundled_width):
    script, out = tmp_path / "script.py", tmp_path / "out.json"
    script.write_text(SCRIPT.format(texts=TEXTS, method=method, loaded=loaded, out=str(out)))
    subprocess.run([sys.executable, script], check=True, timeout=120)
    got = json.loads(out.read_text())
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("elmo")
    docs = [nlp(text) for text in TEXTS]
    for doc, vectors, layers in zip(docs, got["vectors"], got["layers"], strict=True):
        np.testing.assert_allclose(np.reshape(vectors, doc._.elmo.shape), doc._.elmo, 0, 1e-5)
        assert layers == [3, len(doc), bundled_width]
    expected = docs[0][5].similarity(docs[1][4])
    assert expected < 0.999  # spaCy alone says 1.0
    assert got["free"] == pytest.approx(expected, abs=1e-5)
    assert got["hooked"] == pytest.approx(expected, abs=1e-5)


FORKED_LATE = """
import os
import spacy
from spacy_elmo.bilm.kernels import reasons_against_kernels
from spacy_elmo.bilm.lstm import BidirectionalLSTMLayer
from spacy_elmo.bilm.products import reasons_against_packing
from spacy_elmo.pipeline.shim import shim_of
import torch

nlp = spacy.blank("en")
shim = shim_of(nlp.add_pipe("elmo").model)
assert shim._weights is None
child = os.fork()
if child == 0:
    with torch.no_grad():
        is_packed = not reasons_against_packing(torch.zeros(1), "float32")
        is_compiled = not reasons_against_kernels(torch.zeros(1))
    modules = [] if shim._weights is None else list(shim._weights.bilm._packed_modules())
    for module in modules:  # what the engine that runs predictions needs, and nothing beside it
        expected = is_packed or (is_compiled and isinstance(module, BidirectionalLSTMLayer))
        if len(module._packed._contents) != expected:
            os._exit(1)
    os._exit(not modules)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_weights_are_read_and_laid_out_before_a_fork_so_that_processes_share_them():
    subprocess.run([sys.executable, "-c", FORKED_LATE], check=True, timeout=120)


LISTENING = """
import json, multiprocessing, warnings
import torch
import spacy
from spacy.tokens import Doc
from spacy.training import Example

if __name__ == "__main__":
    torch.set_num_threads(2)
    multiprocessing.set_start_method({method!r})
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={{"model": {{"weights": {weights!r}}}, "vectors": "none"}})
    listener = {{"@architectures": "spacy-elmo.ElmoListener.v1", "width": 32}}
    nlp.add_pipe("tagger", config={{"model": {{"tok2vec": listener}}}})
    words = ["Peter", "met", "Anna"]
    data = [Example(Doc(nlp.vocab, words=words), Doc(nlp.vocab, words=words, tags=["N", "V", "N"]))]
    optimizer = nlp.initialize(lambda: data)
    optimizer.learn_rate = 0.05
    for _ in range(40):
        nlp.update(data, sgd=optimizer)
    warnings.filterwarnings("error", message=".*has not run.*")
    texts = ["Peter met Anna", "", "Anna met Peter"] * 4
    alone = [[token.tag_ for token in doc] for doc in nlp.pipe(texts)]
    both = [[token.tag_ for token in doc] for doc in nlp.pipe(texts, n_process=2, batch_size=2)]
    json.dump([alone, both], open({out!r}, "w"))
"""


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_listeners_are_served_in_other_processes(method, tmp_path, data):
    script, out = tmp_path / "script.py", tmp_path / "out.json"
    script.write_text(LISTENING.format(method=method, weights=str(data / "tiny_2l_skip"), out=str(out)))
    done = subprocess.run([sys.executable, script], check=True, timeout=120, capture_output=True, text=True)
    alone, both = json.loads(out.read_text())
    assert both == alone
    assert alone[0] == ["N", "V", "N"]
    assert "has not run" not in done.stderr


KILLED = """
import multiprocessing, sys, time
import spacy

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": sys.argv[2]}})
    docs = nlp.pipe(["one", "two"], n_process=3, batch_size=1)  # the third worker has nothing to do
    next(docs)
    print("working", flush=True)
    time.sleep(600)
"""


def methods(*slow):
    """Those of this system, the slow ones marked."""
    all_methods = multiprocessing.get_all_start_methods()
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in all_methods]


@pytest.mark.parametrize("method", methods("forkserver"))
def test_workers_end_when_their_parent_is_killed(method, tmp_path, tiny):
    (tmp_path / "parent.py").write_text(KILLED)
    process = subprocess.Popen([sys.executable, tmp_path / "parent.py", method, tiny], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"working\n"
    process.kill()
    process.communicate(timeout=60)  # the end of what all of them can write to comes when all are gone


OTHERS = """
import multiprocessing, sys, threading
import spacy

def work():
    print([thread.name for thread in threading.enumerate()].count("end_with_parent"))

if __name__ == "__main__":
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": sys.argv[2]}})
    process = multiprocessing.get_context(sys.argv[1]).Process(target=work)
    process.start()
    process.join()
"""


@pytest.mark.parametrize("method", methods("forkserver", "spawn"))
def test_other_processes_of_the_user_are_left_alone(method, tmp_path, tiny):
    (tmp_path / "parent.py").write_text(OTHERS)
    run = subprocess.run([sys.executable, tmp_path / "parent.py", method, tiny], capture_output=True, timeout=120)
    assert run.stdout == b"0\n"


FORK = """
import os
import torch
from spacy_elmo.formats import load

torch.set_num_threads(2)
torch.zeros(4_000_000).add_(1)
bilm = load("en_elmo_sm")
child = os.fork()
if child == 0:
    words = [[f"word{number}" for number in range(200)]] * 4
    bilm.encode(words)
    load("en_elmo_sm").encode(words)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_can_load_and_encode_without_spacy():
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=60)
