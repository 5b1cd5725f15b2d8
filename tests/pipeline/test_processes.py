"""Each case runs in a separate interpreter, because how processes start is a setting of the whole process."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import chain

from spacy_elmo import ElmoError, formats
from spacy_elmo.pipeline.mix import scalar_mix
from spacy_elmo.pipeline.shim import BiLMShim, shim_of
from spacy_elmo.pipeline.weights import WeightsSource

HANGS = 600  # seconds. No test hangs if it takes minutes: three processes import torch, maybe on a busy machine.

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
    subprocess.run([sys.executable, script], check=True, timeout=HANGS)
    got = json.loads(out.read_text())
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("elmo")
    docs = [nlp(text) for text in TEXTS]
    for doc, vectors, layers in zip(docs, got["vectors"], got["layers"], strict=True):
        np.testing.assert_allclose(np.reshape(vectors, doc._.elmo.shape), doc._.elmo, 0, 1e-5)
        assert layers == [3, len(doc), bundled_width]
    expected = docs[0][5].similarity(docs[1][4])
    assert expected < 0.999  # spaCy alone gives 1.0
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
    subprocess.run([sys.executable, "-c", FORKED_LATE], check=True, timeout=HANGS)


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
    done = subprocess.run([sys.executable, script], check=True, timeout=HANGS, capture_output=True, text=True)
    alone, both = json.loads(out.read_text())
    assert both == alone
    assert alone[0] == ["N", "V", "N"]
    assert "has not run" not in done.stderr


WRONG = """
import multiprocessing, sys
import spacy
from spacy_elmo import ElmoError

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": sys.argv[2]}})
    try:
        list(nlp.pipe(["We sat here."] * 40, n_process=2, batch_size=2))
    except ElmoError as error:
        print(error)
"""


def methods(*slow):
    """Return the start methods of this system, with the slow ones marked."""
    all_methods = multiprocessing.get_all_start_methods()
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in all_methods]


@pytest.fixture
def truncated(tiny, tmp_path):
    """Write a model whose weights file is cut off."""
    folder = shutil.copytree(tiny, tmp_path / "truncated")
    weights = folder / "weights.hdf5"
    weights.write_bytes(weights.read_bytes()[:50_000])
    return str(folder)


def said_of(weights):
    """Return the error of a pipeline with such weights in one process."""
    with pytest.raises(ElmoError) as caught:
        pipeline_with(weights)("We sat here.")
    return str(caught.value)


def pipeline_with(weights, **settings):
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": weights}, **settings})
    return nlp


@pytest.mark.parametrize("method", methods("forkserver"))
@pytest.mark.parametrize("kind", ["missing", "truncated"])
def test_wrong_weights_are_our_one_error_before_any_process_starts(method, kind, truncated, tmp_path):
    weights = {"missing": str(tmp_path / "none"), "truncated": truncated}[kind]
    (tmp_path / "parent.py").write_text(WRONG)
    command = [sys.executable, tmp_path / "parent.py", method, weights]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{said_of(weights)}\n"
    assert done.stderr == ""


@pytest.fixture
def started(monkeypatch):
    """Collect the processes that were started. None of them does anything."""
    processes = []
    monkeypatch.setattr(multiprocessing.Process, "start", lambda process: processes.append(process))
    return processes


def fail_in_two_processes(nlp, **settings):
    with pytest.raises(ElmoError) as caught:
        list(nlp.pipe(["We sat here."] * 4, n_process=2, batch_size=2, **settings))
    return str(caught.value)


def test_so_they_are_for_sourced_and_fine_tuned_components_and_with_an_error_handler(truncated, started):
    source = pipeline_with(truncated, frozen=False)
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", source=source)
    nlp.set_error_handler(lambda *_: None)
    assert fail_in_two_processes(nlp) == said_of(truncated)
    assert not started


def test_so_they_are_where_weights_are_not_set_or_lack_a_layer(tiny, started):
    assert "model.weights is null" in fail_in_two_processes(pipeline_with(None))
    assert "layers" in fail_in_two_processes(pipeline_with(tiny, layers=7))
    assert not started


def tagger(weights):
    """Make a pipeline whose tagger listens to elmo."""
    nlp = pipeline_with(weights)
    listener = {"@architectures": "spacy-elmo.ElmoListener.v1", "width": 32}
    nlp.add_pipe("tagger", config={"model": {"tok2vec": listener}})
    return nlp


def test_a_listener_needs_them_also_while_its_elmo_is_disabled(tiny, truncated, started):
    trained = tagger(tiny)
    words = ["Peter", "met"]
    example = Example(Doc(trained.vocab, words=words), Doc(trained.vocab, words=words, tags=["N", "V"]))
    trained.initialize(lambda: [example])
    nlp = tagger(truncated)
    nlp.get_pipe("tagger").from_bytes(trained.get_pipe("tagger").to_bytes())
    assert fail_in_two_processes(nlp, disable=["elmo"]) == said_of(truncated)
    assert not started


def trained_tagger(weights, listener):
    """Make a pipeline whose trained tagger reads from elmo through a listener."""
    nlp = pipeline_with(weights)
    nlp.add_pipe("tagger", config={"model": {"tok2vec": {"width": 32, **listener}}})
    words = ["Peter", "met"]
    example = Example(Doc(nlp.vocab, words=words), Doc(nlp.vocab, words=words, tags=["N", "V"]))
    nlp.update([example], sgd=nlp.initialize(lambda: [example]))
    return nlp


OURS = {"@architectures": "spacy-elmo.ElmoListener.v1"}
SPACYS = {"@architectures": "spacy.Tok2VecListener.v1", "upstream": "elmo"}


def said_in_one_process(nlp):
    with pytest.raises(ElmoError) as caught:
        nlp("We sat here.")
    return str(caught.value)


def test_a_listener_whose_elmo_is_gone_is_our_one_error_before_any_process_starts(tiny, started):
    nlp = trained_tagger(tiny, OURS)
    nlp.remove_pipe("elmo")
    assert fail_in_two_processes(nlp) == said_in_one_process(nlp)
    assert not started


@pytest.mark.parametrize("listener", [OURS, SPACYS])
def test_so_is_one_that_was_trained_with_other_weights(listener, tiny, data, started):
    nlp = trained_tagger(str(data / "tiny_2l_clip"), listener)
    nlp.get_pipe("tagger").from_bytes(trained_tagger(tiny, listener).get_pipe("tagger").to_bytes())
    said = fail_in_two_processes(nlp)
    assert not started
    assert "was trained with other weights" in said
    assert said == said_in_one_process(nlp)


@pytest.mark.parametrize("wrong", [{"width": 48}, {"mix": 7}, {"mix": [0.5, 0.5]}])
def test_so_is_one_whose_width_or_mix_does_not_fit(wrong, tiny, started):
    nlp = pipeline_with(tiny)
    nlp.add_pipe("tagger", config={"model": {"tok2vec": {**OURS, "width": 32, **wrong}}})
    said = fail_in_two_processes(nlp)
    assert not started
    assert next(iter(wrong)) in said


def test_checking_a_listener_leaves_the_gpu_to_the_processes_that_need_it(tiny, data, started):
    nlp = trained_tagger(str(data / "tiny_2l_clip"), OURS)
    shim = shim_of(nlp.get_pipe("elmo").model)
    nlp.get_pipe("tagger").from_bytes(trained_tagger(tiny, OURS).get_pipe("tagger").to_bytes())
    shim._weights, shim.source = None, WeightsSource(str(data / "tiny_2l_clip"), "cuda")
    assert "was trained with other weights" in fail_in_two_processes(nlp)
    assert not shim.is_loaded


def test_a_listener_of_two_pipelines_is_not_held_to_the_last(tiny, data):
    nlp = trained_tagger(tiny, OURS)
    other = pipeline_with(str(data / "tiny_2l_clip"))
    other.add_pipe("tagger", source=nlp)
    assert len(list(nlp.pipe(["We sat here."] * 4, n_process=2, batch_size=2))) == 4


def test_spacys_listener_is_not_checked_while_elmo_is_disabled(truncated, tiny):
    trained = trained_tagger(tiny, SPACYS)
    shim = shim_of(trained.get_pipe("elmo").model)
    shim._weights, shim.source = None, WeightsSource(truncated, "cpu")
    assert len(list(trained.pipe(["We sat here."] * 4, n_process=2, disable=["elmo"]))) == 4


def test_a_component_that_is_disabled_and_needed_by_none_is_not_read(truncated):
    nlp = pipeline_with(truncated)
    nlp.add_pipe("sentencizer")
    assert len(list(nlp.pipe(["We sat here."] * 4, n_process=2, disable=["elmo"]))) == 4


def test_a_bilm_inside_another_component_is_read_too(tiny, truncated, started):
    bilm = spacy.blank("en").add_pipe("elmo", config={"model": {"weights": truncated}}).model
    nlp = spacy.blank("en")
    component = nlp.add_pipe("tok2vec")
    component.model = chain(bilm, scalar_mix(32))
    assert fail_in_two_processes(nlp) == said_of(truncated)
    assert not started


def test_weights_are_read_once_for_all_processes_and_late_for_one(tiny, tmp_path, monkeypatch):
    own = str(shutil.copytree(tiny, tmp_path / "own"))  # a fork reads the weights of all pipelines that still exist
    read = []
    monkeypatch.setattr(formats, "load", lambda path, load=formats.load: read.append(path) or load(path))
    nlp = pipeline_with(own)
    assert list(nlp.pipe([])) == []
    assert own not in read
    shim = shim_of(nlp.get_pipe("elmo").model)
    assert shim.read_weights().width == 32
    assert not shim.is_loaded
    docs = list(nlp.pipe(["We sat here."] * 4, n_process=2, batch_size=2))
    assert [doc._.elmo.shape for doc in docs] == [(4, 32)] * 4
    assert read.count(own) == 1


def test_reading_weights_leaves_the_gpu_to_the_processes_that_need_it(tiny):
    """A process that has used the GPU cannot be forked."""
    assert BiLMShim(WeightsSource(tiny, "cuda")).read_weights().width == 32


class ReadsForItself:
    """A user's component whose method of that name does something else."""

    def __call__(self, doc):
        return doc

    def read_weights(self, path):
        raise AssertionError(path)


def test_a_method_of_that_name_of_others_is_not_called():
    nlp = spacy.blank("en")
    Language.component("reads_for_itself", func=ReadsForItself())
    nlp.add_pipe("reads_for_itself")
    assert len(list(nlp.pipe(["We sat here."] * 4, n_process=2))) == 4


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


@pytest.mark.parametrize("method", methods("forkserver"))
def test_workers_end_when_their_parent_is_killed(method, tmp_path, tiny):
    (tmp_path / "parent.py").write_text(KILLED)
    process = subprocess.Popen([sys.executable, tmp_path / "parent.py", method, tiny], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"working\n"
    process.kill()
    process.communicate(timeout=60)  # their shared output ends when all have exited


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
    run = subprocess.run([sys.executable, tmp_path / "parent.py", method, tiny], capture_output=True, timeout=HANGS)
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
