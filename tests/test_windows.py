"""What can be tested of Windows on other systems: the package in a process that imitates it (helpers/windows.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="imitates Windows on Linux")

BEGIN = """
import importlib, pkgutil, sys, threading
from pathlib import Path
from helpers.windows import imitate, refused
imitate()
out, data = map(Path, sys.argv[1:])


def when_refused(act):
    thread = threading.Thread(target=lambda: refused.wait(60) and act())
    thread.start()
    return thread
"""

EMBED = """
import spacy, spacy_elmo
for module in pkgutil.walk_packages(spacy_elmo.__path__, "spacy_elmo."):
    if module.name.rpartition(".")[2] not in ("__main__", "_kernels"):
        importlib.import_module(module.name)
nlp = spacy.blank("en")
nlp.add_pipe("elmo", config={"model": {"weights": str(data / "tiny_2l_skip")}})
assert nlp("on the bank")._.elmo.any()
for _ in range(2):  # where nothing is, and over what is there
    nlp.to_disk(out / "pipeline")
    assert spacy.load(out / "pipeline")("on the bank")._.elmo.any()
"""

MODEL_IN_USE = """
import h5py
from spacy_elmo import formats
from spacy_elmo.support import files
first, second = formats.load(data / "tiny_2l_skip"), formats.load(data / "tiny_2l_clip")
formats.write(first, out / "model")

files._PATIENCE = 60.0  # of a slow machine
reader = h5py.File(out / "model/weights.hdf5")
thread = when_refused(reader.close)
formats.write(second, out / "model")
thread.join()
assert formats.digest(formats.load(out / "model")) == formats.digest(second)

files._PATIENCE = 0.0
with h5py.File(out / "model/weights.hdf5"):
    try:
        formats.write(first, out / "model")
    except PermissionError as error:
        print("refused")
    kept = formats.load(out / "model")  # one or the other, and whole
assert formats.digest(kept) in (formats.digest(first), formats.digest(second))
formats.write(first, out / "model")
assert formats.digest(formats.load(out / "model")) == formats.digest(first)
assert not [path for path in (out / "model").iterdir() if path.is_dir()]
"""

CORPUS_IN_USE = """
from spacy_elmo.errors import CorpusError
from spacy_elmo.pretraining.corpus import encode
from spacy_elmo.pretraining.vocabulary import Vocabulary
from spacy_elmo.support import files
files._PATIENCE = 0.0
text, vocabulary = out / "text", Vocabulary(["<S>", "</S>", "<UNK>", "a", "b"])
text.write_text("a b\\n")
mapped = encode([text], vocabulary, 16, out / "corpus")
text.write_text("a b a\\n")
try:
    encode([text], vocabulary, 16, out / "corpus")
except CorpusError as error:
    assert "\\n" not in str(error)
    print(error)
assert mapped.n_tokens == 2
del mapped
assert encode([text], vocabulary, 16, out / "corpus").n_tokens == 3
"""

RUN = """
from spacy_elmo.pretraining.config import Config
from spacy_elmo.pretraining.run import pretrain
from spacy_elmo.tools.embed import embed_file
from spacy_elmo.tools.prepare import prepare
raw = out / "raw.txt"
raw.write_text("\\n\\n".join(["We sat on the bank. It was late."] * 40))
prepare(raw, out / "corpus", held_out=0.1, min_count=1, shuffle=True)
settings = {
    "model.dim": "8", "model.projection_dim": "4", "model.filters": "[[1, 4], [2, 4]]", "training.batch_size": "2",
    "training.unroll_steps": "4", "training.n_negative_samples_batch": "0", "training.device": '"cpu"',
    "logging.log_every": "2",
}
for steps in (4, 8):
    config = Config.from_strings({}, {**settings, "training.max_steps": str(steps)}, "settings")
    pretrain(out / "corpus", out / "run", config, resume=steps > 4, show_progress=False)
assert b"\\r" not in (out / "run/metrics.jsonl").read_bytes()
for force in (False, True):
    embed_file(out / "corpus/train/raw.txt", out / "vectors.hdf5", model=str(out / "run"), force=force)
assert not (out / "vectors.hdf5.part").exists()
"""

LOCKS = """
from spacy_elmo.support.locks import abandoned, claimed, locked
folder = out / "folder"
folder.mkdir()
held, tried = threading.Event(), threading.Event()


def hold():
    with locked(folder):
        held.set()
        tried.wait(60)


thread = threading.Thread(target=hold)
thread.start()
held.wait(60)
try:
    with locked(folder, wait=False):
        print("both have it")
except BlockingIOError:
    print("in use")
tried.set()
thread.join()
with locked(folder, wait=False), abandoned(folder) as is_abandoned:
    assert not is_abandoned

made = []
with claimed(out / "claim", lambda path: made.append(path) or len(made) > 1 and path.mkdir(), Exception()):
    assert (out / "claim").is_dir()  # what another had removed was made again
"""


def run(code, *paths):
    places = [str(Path(__file__).parent), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, "-c", BEGIN + code, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_pipeline_is_saved_over_another(tmp_path, data):
    run(EMBED, tmp_path, data)


def test_a_model_is_written_when_its_reader_has_come_to_the_end(tmp_path, data):
    assert run(MODEL_IN_USE, tmp_path, data) == "refused\n"


def test_a_corpus_that_is_mapped_is_not_replaced(tmp_path, data):
    assert f"{tmp_path / 'corpus'}: the encoded corpus cannot be written" in run(CORPUS_IN_USE, tmp_path, data)


def test_a_run_is_resumed_and_its_model_embeds(tmp_path, data):
    run(RUN, tmp_path, data)


def test_locks_hold(tmp_path, data):
    assert run(LOCKS, tmp_path, data) == "in use\n"
