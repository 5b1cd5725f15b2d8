"""Zip archives as models: those of the NLPL repository are read. Hostile ones are refused, and the error names them."""

import gzip
import io
import json
import re
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import spacy

from helpers.refusals import refused
from spacy_elmo import ElmoError, OptionsError, WeightsError
from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.formats import archive, digest, load, open_model, write
from spacy_elmo.tools.describe import describe

DEFLATED, STORED = zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED


@pytest.fixture
def parts(data):
    """Return the members of an archive of tiny_2l_skip, as the NLPL repository packs them."""
    source = data / "tiny_2l_skip"
    return {
        "README": b"a model",
        "meta.json": b'{"algorithm": "ELMo"}',
        "model.hdf5": (source / "weights.hdf5").read_bytes(),
        "options.json": (source / "options.json").read_bytes(),
        "vocab.txt": b"<S>\n</S>\n<UNK>\nthe\n",
    }


@pytest.fixture
def pack(tmp_path):
    """Return a function that writes a zip archive: `pack(members, method)` returns its path."""

    def packed(members, method=DEFLATED):
        path = tmp_path / "218.zip"
        with zipfile.ZipFile(path, "w", method) as file:
            for name, content in members.items():
                file.writestr(name, content)
        return path

    return packed


# --- what is read ---


@pytest.mark.parametrize("method", [DEFLATED, STORED], ids=["deflated", "stored"])
@pytest.mark.parametrize("folder", ["", "218/"], ids=["flat", "in a folder"])
def test_an_archive_gives_the_vectors_of_the_originals(shared, pack, parts, sentences, method, folder):
    path = pack({folder + name: content for name, content in parts.items()}, method)
    expected = np.load(shared / "references" / "tiny_2l_skip" / "bilm_tf.npz")
    for number, layers in enumerate(load(path).encode(sentences, keep_boundaries=True)):
        np.testing.assert_allclose(layers, expected[f"zs_{number:02}"], rtol=0, atol=1e-5)


def test_an_archive_is_the_model_that_its_files_are(pack, parts, data):
    assert digest(load(pack(parts))) == digest(load(str(pack(parts)))) == digest(load(data / "tiny_2l_skip"))


def test_the_usual_name_wins_and_a_softmax_is_not_taken_for_weights(pack, parts, data):
    parts["weights.hdf5"] = parts["model.hdf5"]
    parts["model.hdf5"] = parts["softmax.hdf5"] = b"something else"
    assert digest(load(pack(parts))) == digest(load(data / "tiny_2l_skip"))


def test_what_macos_and_tar_add_to_archives_is_no_matter(pack, parts, data):
    parts = {f"./218/{name}": content for name, content in parts.items()}
    parts["__MACOSX/218/._model.hdf5"] = parts["218/._model.hdf5"] = b"junk"
    assert digest(load(pack(parts))) == digest(load(data / "tiny_2l_skip"))


def test_an_archive_with_another_name_is_known_by_its_content(pack, parts, data):
    path = pack(parts)
    assert digest(load(path.rename(path.with_name("model")))) == digest(load(data / "tiny_2l_skip"))


def test_options_may_lie_outside_of_the_archive(pack, parts, tmp_path):
    (tmp_path / "mine.json").write_bytes(parts["options.json"].replace(b'"relu"', b'"tanh"'))
    assert load(pack(parts), options=tmp_path / "mine.json").options.char_cnn.activation == "tanh"


@pytest.mark.parametrize("packed", [False, True], ids=["vocab.txt", "vocab.txt.gz"])
@pytest.mark.parametrize("where", ["archive", "directory"])
def test_a_word_model_reads_its_vocabulary(pack, data, tmp_path, packed, where):
    lstm = BiLMOptions.from_file(data / "tiny_2l_skip" / "options.json").lstm
    words = ["<S>", "</S>", "<UNK>", "ord", "är"]
    write(BiLM(BiLMOptions(lstm=lstm, char_cnn=None), words), tmp_path / "words")
    if packed:
        text = (tmp_path / "words" / "vocab.txt").read_bytes()
        (tmp_path / "words" / "vocab.txt").unlink()
        (tmp_path / "words" / "vocab.txt.gz").write_bytes(gzip.compress(text))
    path = tmp_path / "words"
    if where == "archive":
        path = pack({file.name: file.read_bytes() for file in path.iterdir()})
    assert load(path).vocabulary == words


def test_the_component_and_info_take_an_archive(pack, parts, data):
    path = pack(parts)
    config = {"model": {"weights": str(path)}}
    theirs = {"model": {"weights": str(data / "tiny_2l_skip")}}
    docs = []
    for settings in (config, theirs):
        nlp = spacy.blank("en")
        nlp.add_pipe("elmo", config=settings)
        docs.append(nlp("One sentence here."))
    np.testing.assert_array_equal(docs[0]._.elmo, docs[1]._.elmo)
    facts = describe(str(path))
    assert facts["format"] == "bilm-tf HDF5 in a zip archive"
    assert facts["name"] == "218.zip"
    assert facts["weights_bytes"] == len(parts["model.hdf5"])
    assert facts["digest"] == describe(str(data / "tiny_2l_skip"))["digest"]


def test_a_model_card_in_an_archive_is_read(pack, parts):
    parts["model_card.json"] = json.dumps({"license": "CC0"}).encode()
    assert load(pack(parts)).card == {"license": "CC0"}


def test_nothing_stays_behind(pack, parts, tmp_path, monkeypatch):
    path = pack(parts)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    load(path)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["218.zip", "tmp"]


# --- what is not ---


def test_weights_in_several_folders_are_an_error_that_names_them(pack, parts):
    refused(pack({**parts, "other/model.hdf5": parts["model.hdf5"]}), r"several folders \(\., other\)")


def test_several_weights_files_are_an_error_that_names_them(pack, parts):
    refused(pack({**parts, "second.hdf5": parts["model.hdf5"]}), r"model\.hdf5, second\.hdf5")


@pytest.mark.parametrize(
    ("name", "message"),
    [("model.txt", "found none"), ("deep/down/model.hdf5", "found none"), ("model.bin", "a pickle")],
)
def test_an_archive_without_weights_is_an_error_that_names_it(pack, parts, name, message):
    parts[name] = parts.pop("model.hdf5")
    refused(pack(parts), message)


def test_missing_and_bad_options_are_errors_that_name_the_archive(pack, parts):
    for content in (None, b"{", b"[]", b"\xff"):
        parts.pop("options.json", None)
        path = pack(parts if content is None else {**parts, "options.json": content})
        with pytest.raises(OptionsError, match=r"218\.zip: (model\.hdf5|options\.json)"):
            load(path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 and then nothing", b"<html>not here</html>"])
def test_what_only_claims_to_be_a_zip_is_refused(tmp_path, content):
    (tmp_path / "218.zip").write_bytes(content)
    refused(tmp_path / "218.zip", "not a zip archive, or a damaged one")


def test_a_name_that_begins_with_a_null_is_refused(pack, parts):
    path = pack(parts)
    path.write_bytes(path.read_bytes().replace(b"vocab.txt", b"\0ocab.txt"))
    refused(path, "has a name with odd characters")


def test_a_cut_archive_is_refused(pack, parts):
    path = pack(parts)
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, "not a zip archive, or a damaged one")


@pytest.mark.parametrize("method", [DEFLATED, STORED])
def test_a_flipped_bit_is_found(pack, parts, method):
    path = pack(parts, method)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        content[file.getinfo("model.hdf5").header_offset + 5000] ^= 1
    path.write_bytes(content)
    refused(path, r"model\.hdf5: cannot be unpacked")


def test_weights_that_are_no_hdf5_are_refused(pack, parts):
    refused(pack({**parts, "model.hdf5": b"\x80\x04 a pickle"}), r"model\.hdf5: cannot be read as HDF5")


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/evil", "a/../../evil", "C:/evil", "..\\evil", "\\\\host\\evil", "a\\b", "evil\n", "\x1b[2J"],
)
def test_a_member_with_an_unfit_name_is_refused(pack, parts, tmp_path, name):
    refused(pack({**parts, name: b"evil"}), "leads out of the archive|odd characters")
    assert [file.name for file in tmp_path.iterdir()] == ["218.zip"]


def test_a_member_without_a_name_is_refused(pack, parts):
    refused(pack({**parts, ".": b"evil"}), "odd characters")


def test_no_temporary_directory_is_an_error_that_names_it(pack, parts, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    refused(pack(parts), "temporary directory.*TMPDIR")


@pytest.mark.parametrize("kind", [0o120777, 0o020666, 0o010666], ids=["link", "device", "pipe"])
def test_links_and_devices_are_refused(pack, parts, kind):
    entry = zipfile.ZipInfo("vocab.txt")
    entry.external_attr = kind << 16
    parts.pop("vocab.txt")
    refused(pack({**parts, entry: b"/etc/passwd"}), r"'vocab\.txt' is a link or a device")


def test_two_members_of_one_name_are_refused(pack, parts):
    refused(pack({**parts, "./options.json": b"{}"}), "the same name")


def change_directory(path, name, offset, form, value):
    """Overwrite a field of a member's entry in the directory at the end of the archive."""
    content = bytearray(path.read_bytes())
    entry = content.rindex(name.encode()) - 46
    assert content[entry : entry + 4] == b"PK\1\2"
    struct.pack_into(form, content, entry + offset, value)
    path.write_bytes(content)
    return path


def test_encrypted_members_are_refused(pack, parts):
    refused(change_directory(pack(parts), "options.json", 8, "<H", 1), r"'options\.json' is encrypted")


def test_other_compressions_are_refused(pack, parts):
    refused(pack(parts, zipfile.ZIP_LZMA), "compressed by method 14")


def test_a_bomb_is_refused_by_its_ratio(pack, parts):
    refused(pack({**parts, "vocab.txt": bytes(20_000_000)}), r"'vocab\.txt' would grow from .* to 20,000,000 bytes")


def test_a_bomb_is_refused_by_its_size(pack, parts, monkeypatch):
    monkeypatch.setattr(archive, "_MOST_BYTES", 100_000)
    refused(pack(parts), "bytes unpacked, more than 100,000")


def test_overlapping_members_are_refused(pack, parts):
    """Zip bombs list one compressed block many times in this way."""
    path = change_directory(pack(parts), "README", 20, "<I", path_size := 150_000)
    assert path.stat().st_size < 2 * path_size
    refused(change_directory(path, "README", 24, "<I", path_size), "members overlap")


def test_a_member_that_begins_before_the_archive_is_refused(pack, parts):
    """The operating system refuses the seek: `OSError: Invalid argument`."""
    for name in ("options.json", "vocab.txt"):
        path = pack(parts)
        end = bytearray(path.read_bytes())
        place = end.rindex(b"PK\5\6") + 16  # start of the directory: a difference shifts all offsets
        struct.pack_into("<I", end, place, struct.unpack_from("<I", end, place)[0] + 1000)
        path.write_bytes(end)
        with pytest.raises(WeightsError, match=rf"218\.zip: {re.escape(name)}: cannot be unpacked \(.*\)"):
            (archive.Archive(path).top / name).read_bytes()


def test_what_another_package_says_of_a_long_name_is_cut(pack, parts):
    """zipfile's error has both names if those of the directory and the member differ."""
    name = "é" * 100
    path = pack({**parts, name: b""}, STORED)
    path.write_bytes(path.read_bytes().replace(name.encode(), ("ä" * 100).encode(), 1))
    with pytest.raises(WeightsError, match="cannot be unpacked") as error:
        (archive.Archive(path).top / name).read_bytes()
    assert len(str(error.value).removeprefix(str(path))) < 400


def test_a_name_longer_than_any_is_refused_in_a_short_line(pack, parts):
    path = pack({**parts, "x" * 60_000: b""})
    with pytest.raises(WeightsError, match="has a name of 60,000 characters; refused") as error:
        load(path)
    assert len(str(error.value).removeprefix(str(path))) < 200


def test_a_member_larger_than_the_directory_says_is_refused(pack, parts):
    path = change_directory(pack({**parts, "vocab.txt": bytes(20_000_000)}), "vocab.txt", 24, "<I", 30_000)
    with pytest.raises(WeightsError, match=r"218\.zip: vocab\.txt"):
        open_model(path).vocabulary  # noqa: B018


def test_a_member_smaller_than_the_directory_says_is_refused(pack, parts):
    path = change_directory(pack(parts), "model.hdf5", 24, "<I", len(parts["model.hdf5"]) + 10)
    refused(path, r"model\.hdf5")


def test_too_many_members_are_refused(pack, parts):
    refused(pack({**parts, **{f"{number}.txt": b"" for number in range(1000)}}), "1,005 members")


def test_folders_are_looked_up_and_not_searched_for(pack, parts):
    """Once, each of 900 folders was compared with the 900 members, several times for each format."""
    path = pack({**{f"folder/{name}": part for name, part in parts.items()}, **{f"{n}/x/y": b"" for n in range(900)}})
    top = archive.Archive(path).top
    assert len(list(top.iterdir())) == 901
    assert [member.name for member in (top / "7" / "x").iterdir()] == ["y"]
    assert [(top / name).is_dir() for name in ("7", "8/x", "9/x/y", "9/y", "folder")] == [
        True,
        True,
        False,
        False,
        True,
    ]
    assert load(path).options.width == 32


def test_a_huge_directory_is_refused_before_it_is_read(pack, parts):
    many = {f"{'x' * 100}{number}": b"" for number in range(10_000)}
    refused(pack({**parts, **many}, STORED), "its directory is longer")


def test_a_text_too_long_for_memory_is_refused(pack, parts, monkeypatch):
    monkeypatch.setattr(archive, "_MOST_TEXT", 10)
    path = pack(parts)
    with pytest.raises(OptionsError, match=r"218\.zip: options\.json: .*too long"):
        load(path)
    with pytest.raises(WeightsError, match=r"218\.zip: vocab\.txt: .*too long"):
        open_model(path).vocabulary  # noqa: B018


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"<S>\n</S>\n<UNK>\n")[:-12]])
def test_a_bad_packed_vocabulary_is_refused(pack, parts, content):
    parts.pop("vocab.txt")
    model = open_model(pack({**parts, "vocab.txt.gz": content}))
    with pytest.raises(WeightsError, match=r"218\.zip: vocab\.txt\.gz"):
        model.vocabulary  # noqa: B018


def test_a_full_disk_is_an_error_of_ours(pack, parts, monkeypatch):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    refused(pack(parts), r"model\.hdf5: cannot be unpacked .*No space left")


def test_memory_stays_flat(pack, tmp_path, data):
    """Unpacking a member of 64 MB takes less than 16 MB."""
    source = tmp_path / "big"
    options = {
        "lstm": {"dim": 16, "projection_dim": 16, "n_layers": 1},
        "char_cnn": {"filters": [[1, 4]], "n_highway": 0, "embedding": {"dim": 4}, "activation": "relu"},
    }
    write(BiLM(BiLMOptions.from_dict(options)), source)
    members = {file.name: file.read_bytes() for file in source.iterdir()}
    rng = np.random.default_rng(0)
    path = pack({**members, "notes.bin": rng.bytes(2**20) * 64}, STORED)
    code = (
        "import sys, resource\nfrom spacy_elmo.formats import archive\nfrom pathlib import Path\n"
        "member = archive.Archive(Path(sys.argv[1])).top / 'notes.bin'\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with member.open() as file:\n    assert file.seek(0, 2) == 64 * 2**20\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16_000  # kB


@pytest.mark.parametrize("length", [0, 1, 30, 300])
def test_no_archive_cut_anywhere_is_anything_but_an_error_of_ours(pack, parts, length):
    path = pack(parts)
    path.write_bytes(path.read_bytes()[-length:] if length else b"")
    with pytest.raises(ElmoError):
        load(Path(path))
