"""Model cards and vocabularies next to the weights: what is read can be saved again, and takes bounded memory."""

import gzip
import json
import shutil
import subprocess
import sys
import zipfile

import pytest
import spacy

from spacy_elmo import WeightsError
from spacy_elmo.formats import beside, load, open_model
from spacy_elmo.tools.convert import convert

GOOD = {"name": "é\u2028😀", "nested": [[[{"a": [None, True, 1.5, -(2**63), 2**64 - 1]}]]], "": {}}
UNSAVABLE = {
    "nested": b'{"a": ' + b"[" * 700 + b"]" * 700 + b"}",
    "nested too deeply to be parsed": b'{"a": ' + b"[" * 100_000,
    "4,000 digits": b'{"a": ' + b"1" * 4_000 + b"}",
    "65 bits": b'{"a": [18446744073709551616]}',
    "lone surrogate": b'{"a": "\\ud800"}',
    "lone surrogate in a key": b'{"\\udfff": 1}',
    "lone surrogate as bytes": b'{"a": "\xed\xa0\x80"}',
    "too long": b"{" + b" " * 5_000_000 + b"}",
}


@pytest.mark.parametrize("content", UNSAVABLE.values(), ids=UNSAVABLE)
def test_a_card_that_could_not_be_saved_again_is_refused_when_it_is_read(model_dir, content):
    (model_dir / "model_card.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"model_card\.json") as error:
        load(model_dir)
    assert len(str(error.value).removeprefix(str(model_dir))) < 300


def test_any_other_card_is_saved_with_the_model(model_dir, tmp_path):
    (model_dir / "model_card.json").write_text(json.dumps(GOOD))
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo", config={"model": {"weights": str(model_dir)}})
    nlp.get_pipe("elmo").model.shims[0].to_bytes()
    nlp.to_disk(tmp_path / "pipeline")
    assert spacy.load(tmp_path / "pipeline").get_pipe("elmo").model.shims[0].bilm.card == GOOD
    convert(str(model_dir), tmp_path / "converted")
    assert open_model(tmp_path / "converted").card == GOOD


def test_an_attribution_goes_along_with_the_weights_and_not_with_others(model_dir, tmp_path):
    (model_dir / beside.ATTRIBUTION).write_bytes("By Zoë.\r\n".encode() + b"\xff")
    convert(str(model_dir), tmp_path / "converted")
    written = tmp_path / "converted" / beside.ATTRIBUTION
    assert written.read_bytes() == "By Zoë.\r\n\ufffd".encode()
    assert open_model(tmp_path / "converted").card == open_model(model_dir).card
    (model_dir / beside.ATTRIBUTION).unlink()
    convert(str(model_dir), tmp_path / "converted", force=True)
    assert not written.exists()


def test_a_card_that_cannot_be_read_is_an_error_that_names_it(model_dir, monkeypatch):
    (model_dir / "model_card.json").write_text("{}")
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(WeightsError, match=r"model_card\.json: cannot be read .*Input/output error"):
        beside.read_card(model_dir)


NEWLINES = 2**27


@pytest.mark.skipif(sys.platform != "linux", reason="measures in the units of Linux")
@pytest.mark.parametrize("container", ["vocab.txt", "gz in a zip"])
def test_a_vocabulary_longer_than_any_takes_little_time_and_memory(tmp_path, container):
    if "zip" in container:
        path, packed = tmp_path / "model.zip", gzip.compress(bytes([10]) * NEWLINES, 1, mtime=0)
        with zipfile.ZipFile(path, "w", compresslevel=1) as archive:
            archive.writestr("weights.hdf5", b"")
            archive.writestr("vocab.txt.gz", packed)
    else:
        path = tmp_path
        (path / "weights.hdf5").touch()
        with (path / container).open("wb") as file:
            file.write(bytes([10]) * NEWLINES)
    code = (
        "import resource, sys\n"
        "from spacy_elmo.formats import open_model\n"
        "model = open_model(sys.argv[1])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    model.vocabulary\nexcept ValueError as error:\n    print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    *errors, megabytes = done.stdout.splitlines()
    assert len(errors) == 1
    assert "8,388,608 words and 134,217,728 bytes" in errors[0]
    assert int(megabytes) < 600


def test_attribution_that_is_too_long_to_be_one_is_left_with_a_warning(data, tmp_path):
    folder = shutil.copytree(data / "tiny_2l_skip", tmp_path / "model")
    (folder / "ATTRIBUTION.md").write_bytes(b"a" * (2**22 + 1))
    with pytest.warns(UserWarning, match=r"ATTRIBUTION\.md.*is left out of the model's card"):
        bilm = load(folder)
    assert "attribution_text" not in bilm.card
