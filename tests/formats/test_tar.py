"""Tar archives as models, compressed or not: read like zip archives, with the same refusals."""

import bz2
import gzip
import io
import lzma
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from helpers.refusals import refused
from spacy_elmo import ElmoError
from spacy_elmo.formats import archive, digest, load, open_model, tar

ENDINGS = {"": ".tar", "gz": ".tar.gz", "bz2": ".tar.bz2", "xz": ".tar.xz"}
FORMATS = {"posix": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}


@pytest.fixture
def parts(data):
    """Return the members of an archive of tiny_2l_skip."""
    source = data / "tiny_2l_skip"
    return {name: (source / name).read_bytes() for name in ("weights.hdf5", "options.json")}


@pytest.fixture
def pack(tmp_path):
    """Return a function that writes a tar archive of contents, or of tarfile's own entries, by name. It returns the
    path."""

    def packed(members, method="", name="model", form="posix"):
        path = tmp_path / f"{name}{ENDINGS[method]}"
        with tarfile.open(path, f"w:{method}", format=FORMATS[form]) as file:
            for member, content in members.items():
                entry = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
                entry.size = len(content)
                file.addfile(entry, io.BytesIO(content))
        return path

    return packed


def entry_of(name, kind, **attributes):
    entry = tarfile.TarInfo(name)
    entry.type = kind
    for attribute, value in attributes.items():
        setattr(entry, attribute, value)
    return entry


# --- what is read ---


@pytest.mark.parametrize("method", ENDINGS)
@pytest.mark.parametrize("form", FORMATS)
def test_an_archive_is_the_model_that_its_files_are(pack, parts, data, method, form):
    opened = open_model(pack(parts, method, form=form))
    assert opened.digest == digest(load(data / "tiny_2l_skip"))
    assert opened.format == "bilm-tf HDF5 in a tar archive"


@pytest.mark.parametrize("method", ENDINGS)
def test_a_model_of_elmoformanylangs_is_read_from_one(data, tmp_path, method):
    source = data / "elmoformanylangs" / "words_chars"
    path = tmp_path / f"zhs.model{ENDINGS[method]}"
    with tarfile.open(path, f"w:{method}") as file:
        file.add(source, "zhs.model", filter=lambda entry: None if entry.name.endswith(".npz") else entry)
    opened = open_model(path)
    assert opened.digest == open_model(source).digest
    assert opened.format == "ELMoForManyLangs in a tar archive"


@pytest.mark.parametrize(("ending", "method"), [(".tgz", "gz"), (".tbz2", "bz2"), (".txz", "xz"), ("", "gz"), ("", "")])
def test_an_archive_with_another_name_is_known_by_its_content(pack, parts, tmp_path, ending, method):
    path = tmp_path / f"elmo{ending}"
    pack(parts, method).rename(path)
    assert load(path).options.n_outputs == 3


@pytest.mark.parametrize("program", [["tar", "-cf"], ["tar", "-czf"], ["tar", "--format=v7", "-cf"]])
def test_what_the_program_tar_writes_is_read(parts, tmp_path, program):
    if shutil.which("tar") is None:
        pytest.skip("there is no program tar")
    (tmp_path / "m").mkdir()
    for name, content in parts.items():
        (tmp_path / "m" / name).write_bytes(content)
    path = tmp_path / "model.tar"
    subprocess.run([*program, str(path), "-C", str(tmp_path / "m"), "."], check=True)
    assert load(path).options.n_outputs == 3


@pytest.mark.parametrize("form", ["posix", "gnu"])
def test_long_and_foreign_names_are_read(pack, parts, form):
    folder = "ö" * 90 + "x" * 40
    path = pack({f"{folder}/{name}": content for name, content in parts.items()}, form=form)
    assert load(path).options.n_outputs == 3
    assert set(archive.Archive(path).sizes) == {f"{folder}/{name}" for name in parts}


def test_folders_and_what_macos_adds_are_no_matter(pack, parts):
    more = {entry_of("./", tarfile.DIRTYPE): b"", entry_of("model/", tarfile.DIRTYPE): b"", "model/._x": b"mac"}
    path = pack({**more, **{f"model/{name}": content for name, content in parts.items()}, "__MACOSX/x": b"mac"})
    assert load(path).options.n_outputs == 3


@pytest.mark.parametrize("pieces", [gzip.compress, bz2.compress, lzma.compress])
def test_several_compressed_streams_in_one_file_are_read(pack, parts, tmp_path, pieces):
    """Programs that compress with several threads write such files."""
    whole = pack(parts).read_bytes()
    path = tmp_path / "model.tgz"
    path.write_bytes(b"".join(pieces(whole[start : start + 50_000]) for start in range(0, len(whole), 50_000)))
    assert load(path).options.n_outputs == 3


def test_nothing_stays_behind(pack, parts, tmp_path, monkeypatch):
    path = pack(parts, "gz")
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(room))
    load(path)
    assert list(room.iterdir()) == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.tar.gz", "room"]


# --- what is refused ---


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("method", ["", "gz"])
def test_links_and_devices_are_refused(pack, parts, kind, method):
    entry = entry_of("vocab.txt", kind, linkname="/etc/passwd")
    refused(pack({**parts, entry: b""}, method), r"'vocab\.txt' is a link or a device")


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../evil", "C:/evil", "..\\evil", "a\\b", "evil\n", "\x1b[2J"]
)
@pytest.mark.parametrize("form", FORMATS)
def test_a_member_with_an_unfit_name_is_refused(pack, parts, name, form):
    refused(pack({**parts, name: b"evil"}, form=form), "leads out of the archive|odd characters")


def test_a_sparse_member_is_refused(pack, parts):
    old = entry_of("a.bin", tarfile.GNUTYPE_SPARSE)
    refused(pack({**parts, old: b"x"}, form="gnu"), r"'a\.bin' is sparse")
    new = entry_of("a.bin", tarfile.REGTYPE, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    refused(pack({**parts, new: b"x"}), r"'a\.bin' is sparse")


def test_another_kind_of_member_is_refused(pack, parts):
    refused(pack({**parts, entry_of("a", b"D"): b""}), "'a' is of a type that no model has")


def test_two_members_of_one_name_are_refused(pack, parts):
    refused(pack({**parts, "./options.json": b"{}"}), "the same name")


@pytest.mark.parametrize("method", ["gz", "bz2", "xz"])
def test_a_bomb_is_refused_by_its_ratio(pack, parts, method):
    refused(pack({**parts, "vocab.txt": bytes(80_000_000)}, method), "would grow to more than")


def test_a_bomb_is_refused_by_its_size(pack, parts, monkeypatch):
    monkeypatch.setattr(archive, "_MOST_BYTES", 100_000)
    refused(pack(parts, "gz"), "would grow to more than 100,000 bytes")
    refused(pack(parts), "bytes unpacked, more than 100,000")


def test_xz_that_asks_for_too_much_memory_is_refused(pack, parts, tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "_MOST_MEMORY", 2**20)
    refused(pack(parts, "xz"), "cannot be unpacked .*[Mm]emory")


def test_too_many_members_are_refused(pack, parts):
    refused(pack({**parts, **{f"{number}.txt": b"" for number in range(1000)}}, "gz"), "more than 1,000 members")


def changed(path, name, offset, content):
    """Overwrite part of a member's header, and update its checksum."""
    whole = bytearray(path.read_bytes())
    start = whole.index(name.encode().ljust(100, b"\0"))
    whole[start + offset : start + offset + len(content)] = content
    whole[start + 148 : start + 156] = b" " * 8
    whole[start + 148 : start + 156] = b"%06o\0 " % sum(whole[start : start + 512])
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (b"77777777777\0", "ends inside a member"),
        (b"\x80" + b"\0" * 2 + b"\xff" * 9, "ends inside a member"),
        (b"\xff" * 12, "a number in a header is invalid"),
        (b"-0000000001\0", "a number in a header is invalid"),
        (b"99999999999\0", "a number in a header is invalid"),
    ],
)
def test_a_size_that_is_not_true_is_refused(pack, parts, size, message):
    refused(changed(pack(parts), "options.json", 124, size), message)


def test_a_header_with_a_wrong_sum_is_refused(pack, parts):
    path = pack(parts)
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"options.json")] ^= 1
    path.write_bytes(whole)
    refused(path, "the checksum of a header is wrong")


@pytest.mark.parametrize(
    "records",
    [
        b"99999 path=x\n",
        b"5 path=x\n" * 3,
        b"x",
        b"0 a=b\n",
        b"-1 a=b\n",
        b"12 size=-100\n",
        b"99999999999999999 a=b\n",
    ],
)
def test_damaged_records_are_refused(pack, parts, records):
    """POSIX records about a member. Some make other readers hang."""
    refused(pack({entry_of("x", tarfile.XHDTYPE): records, **parts}, form="ustar"), "damaged|no such|expected one")


def test_endless_records_are_refused(pack, parts):
    refused(
        pack({entry_of("x", tarfile.XHDTYPE): bytes(10**6), **parts}, form="ustar"), "bytes about a member, too many"
    )
    refused(
        pack({entry_of("x", tarfile.GNUTYPE_LONGNAME): b"a" * 10**6, **parts}, form="ustar"),
        "bytes about a member, too many",
    )


def test_headers_that_say_something_of_a_member_without_end_are_refused(pack, parts):
    """Each can be a kilobyte, but only a few bytes when compressed. A hundred thousand of them took minutes."""
    path = pack(parts)
    more = entry_of("x", tarfile.GNUTYPE_LONGNAME)
    more.size = 512
    path.write_bytes((more.tobuf() + b"name".ljust(512, b"\0")) * 10_001 + path.read_bytes())
    refused(path, "declares more about its members than any model needs")


def test_more_facts_of_a_member_than_there_are_is_refused(pack, parts):
    entry = tarfile.TarInfo("README")
    entry.pax_headers = {f"key{number}": "x" for number in range(1001)}
    refused(pack({entry: b"", **parts}), "declares more about its members than any model needs")


def test_one_name_for_all_members_is_refused(pack, parts):
    refused(
        pack({entry_of("x", tarfile.XGLTYPE): b"10 path=x\n", **parts}, form="ustar"),
        "gives all its members one name or size",
    )


@pytest.mark.parametrize("method", ["gz", "bz2", "xz"])
def test_a_cut_archive_is_refused(pack, parts, method):
    path = pack(parts, method)
    whole = path.read_bytes()
    for share in (0.02, 0.5, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        refused(path, "cut off")


def test_a_cut_archive_without_compression_is_refused(pack, parts):
    path = pack(parts)
    whole = path.read_bytes()
    for length in (0, 100, 600, 5000, whole.index(b"options.json") + 600):
        path.write_bytes(whole[:length])
        refused(path, "not a tar archive|cut off")


@pytest.mark.parametrize("content", [b"", b"no tar", bytes(2000), b"x" * 2000, gzip.compress(b"x" * 2000)])
def test_what_only_claims_to_be_a_tar_is_refused(tmp_path, content):
    for name in ("model.tar", "model.tar.gz", "model.tgz"):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "not a tar archive")


def test_a_flipped_bit_is_found(pack, parts):
    for method in ("gz", "bz2", "xz"):
        path = pack(parts, method)
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 4
        path.write_bytes(whole)
        with pytest.raises(ElmoError):
            load(path)


def test_no_temporary_directory_is_an_error_that_names_it(pack, parts, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    refused(pack(parts, "gz"), "temporary directory.*TMPDIR")


def test_damage_anywhere_in_a_header_is_an_error_of_ours(pack, parts):
    path = pack(parts)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    start = whole.index(b"options.json")
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(0, 512, 3):
            damaged[(start if rng.integers(2) else 0) + int(place)] = int(rng.integers(256))
        path.write_bytes(damaged)
        if damaged != whole:
            with pytest.raises(ElmoError):
                load(path)


def test_a_large_archive_takes_little_memory(tmp_path):
    path = tmp_path / "big.tar.gz"
    content = np.random.default_rng(0).bytes(2**20) * 64
    with tarfile.open(path, "w:gz", compresslevel=1) as file:
        entry = tarfile.TarInfo("notes.bin")
        entry.size = len(content)
        file.addfile(entry, io.BytesIO(content))
    code = (
        "import sys, resource\nfrom spacy_elmo.formats import archive\nfrom pathlib import Path\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "member = archive.Archive(Path(sys.argv[1])).top / 'notes.bin'\n"
        "with member.open() as file:\n    assert file.seek(0, 2) == 64 * 2**20\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16_000  # kB
