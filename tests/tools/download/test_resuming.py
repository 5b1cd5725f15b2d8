"""Connections that are cut, files that change meanwhile: what goes on, and what is begun anew."""

import io

import h5py
import pytest

from helpers.files import names, sha256
from spacy_elmo import ElmoError, OptionsError, WeightsError
from spacy_elmo.formats import load, open_model
from spacy_elmo.formats.known import KNOWN, KnownModel
from spacy_elmo.tools.download import download


def changed(weights):
    """Weights of the same size in which every number is another one."""
    file = io.BytesIO(weights)
    with h5py.File(file, "r+") as root:

        def halve(_, node):
            if isinstance(node, h5py.Dataset):
                node[...] = node[...] / 2

        root.visititems(halve)
    return file.getvalue()


# --- cut connections ---


def test_a_cut_connection_is_gone_on_with(server, tiny, cache):
    weights = server.files["weights.hdf5"]
    tiny(sha256=sha256(weights))
    server.cuts = [40_960, 49_152]
    download("tiny")
    assert server.ranges == [None, "bytes=40960-", "bytes=90112-"]
    assert (cache / "tiny/weights.hdf5").read_bytes() == weights


def test_a_download_that_was_given_up_is_gone_on_with_by_the_next(server, tiny, cache):
    weights = server.files["weights.hdf5"]
    tiny(sha256=sha256(weights))
    server.cuts = [40_960, 0, 0, 0]
    with pytest.raises(ElmoError, match=r"weights\.hdf5: no connection, or it was cut.*run the command again"):
        download("tiny")
    assert names(cache / "tiny") == ["options.json", "weights.hdf5.part", "weights.hdf5.part.version"]
    with pytest.raises(WeightsError, match="python -m spacy elmo download tiny"):
        load("tiny")
    server.requests.clear()
    download("tiny")
    assert server.requests == [("weights.hdf5", "bytes=40960-")]
    assert (cache / "tiny/weights.hdf5").read_bytes() == weights
    assert names(cache / "tiny") == ["options.json", "weights.hdf5"]


def test_a_server_that_knows_no_ranges_begins_anew(server, tiny, cache):
    server.knows_ranges = False
    server.cuts = [40_960]
    download("tiny")
    assert server.ranges == [None, "bytes=40960-"]
    assert (cache / "tiny/weights.hdf5").read_bytes() == server.files["weights.hdf5"]


def test_a_part_that_was_already_whole_is_taken(server, tiny, cache, cut_download):
    weights = server.files["weights.hdf5"]
    cut_download()
    (cache / "tiny/weights.hdf5.part").write_bytes(weights)
    download("tiny")
    assert server.ranges == [f"bytes={len(weights)}-"]
    assert (cache / "tiny/weights.hdf5").read_bytes() == weights


def test_a_part_longer_than_the_file_is_thrown_away(server, tiny, cache):
    tiny(sha256=sha256(server.files["weights.hdf5"]))
    (cache / "tiny").mkdir(parents=True)
    (cache / "tiny/weights.hdf5.part").write_bytes(bytes(1_000_000))
    download("tiny")
    assert server.ranges == ["bytes=1000000-", None]
    assert (cache / "tiny/weights.hdf5").read_bytes() == server.files["weights.hdf5"]


def test_a_server_that_sends_another_range_begins_anew(server, tiny, cache, cut_download):
    cut_download()
    server.shift = 1
    download("tiny")
    assert server.ranges == ["bytes=40960-", None]
    assert (cache / "tiny/weights.hdf5").read_bytes() == server.files["weights.hdf5"]


def test_a_server_that_sends_less_than_the_rest_is_asked_for_more(server, tiny, cache, cut_download):
    cut_download()
    server.most = 65_536
    download("tiny")
    assert server.ranges == ["bytes=40960-", "bytes=106496-"]
    assert (cache / "tiny/weights.hdf5").read_bytes() == server.files["weights.hdf5"]


def test_beginning_anew_again_and_again_comes_to_an_end(server, tiny):
    server.validates_by = "nothing"
    server.cuts = [8_192, 4_096] * 5
    with pytest.raises(ElmoError, match="run the command again"):
        download("tiny")
    assert server.ranges == [None] * 4


def test_a_server_in_trouble_is_asked_again(server, tiny):
    server.status = [503, 502]
    download("tiny")
    server.status = []


# --- files that change between two attempts ---


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_a_file_of_unknown_checksum_is_gone_on_with_if_it_is_still_the_same(server, tiny, cache, header, cut_download):
    server.validates_by = header
    cut_download()
    download("tiny")
    assert server.ranges == ["bytes=40960-"]
    assert server.if_ranges == [server.validator("weights.hdf5")[1]]
    assert (cache / "tiny/weights.hdf5").read_bytes() == server.files["weights.hdf5"]
    assert names(cache / "tiny") == ["options.json", "weights.hdf5"]


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_a_file_that_has_changed_is_begun_anew(server, tiny, cache, header, cut_download):
    server.validates_by = header
    old = server.validator("weights.hdf5")[1]
    cut_download()
    new = server.files["weights.hdf5"] = changed(server.files["weights.hdf5"])
    server.cuts = [49_152]
    download("tiny")
    assert server.ranges == ["bytes=40960-", "bytes=49152-"]
    assert server.if_ranges == [old, server.validator("weights.hdf5")[1]]
    assert (cache / "tiny/weights.hdf5").read_bytes() == new


@pytest.mark.parametrize("header", ["weak ETag", "nothing"])
def test_a_file_whose_change_could_not_be_told_is_begun_anew(server, tiny, cache, header, cut_download):
    server.validates_by = header
    cut_download()
    new = server.files["weights.hdf5"] = changed(server.files["weights.hdf5"])
    download("tiny")
    assert server.ranges == [None]
    assert server.if_ranges == [None]
    assert (cache / "tiny/weights.hdf5").read_bytes() == new


@pytest.mark.parametrize("header", ["weak ETag", "nothing"])
def test_a_known_checksum_is_enough_to_go_on(server, tiny, header, cut_download):
    tiny(sha256=sha256(server.files["weights.hdf5"]))
    server.validates_by = header
    cut_download()
    download("tiny")
    assert server.ranges == ["bytes=40960-"]
    assert server.if_ranges == [None]


@pytest.mark.parametrize("note", [None, "", "[]", '{"validator": ', "null"])
def test_a_part_of_unknown_origin_is_begun_anew(server, tiny, cache, note):
    (cache / "tiny").mkdir(parents=True)
    (cache / "tiny/weights.hdf5.part").write_bytes(bytes(1000))
    if note is not None:
        (cache / "tiny/weights.hdf5.part.version").write_text(note)
    download("tiny")
    assert server.ranges == [None]
    assert names(cache / "tiny") == ["options.json", "weights.hdf5"]


@pytest.mark.parametrize(("header", "more"), [("nothing", b" "), ("ETag", b"")])
def test_a_server_without_if_range_is_found_out_by_the_size_or_tag_it_sends(
    server, tiny, cache, header, more, cut_download
):
    cut_download()
    new = server.files["weights.hdf5"] = changed(server.files["weights.hdf5"]) + more
    server.knows_if_range, server.validates_by = False, header
    download("tiny")
    assert server.ranges == ["bytes=40960-", None]
    assert (cache / "tiny/weights.hdf5").read_bytes() == new


def test_the_version_of_the_first_bytes_is_kept_over_several_cuts(server, tiny, cut_download):
    first = server.validator("weights.hdf5")[1]
    cut_download()
    server.validates_by, server.knows_if_range = "nothing", False
    server.cuts = [49_152]
    download("tiny")
    assert server.ranges == ["bytes=40960-", "bytes=90112-"]
    assert server.if_ranges == [first, first]


def test_a_changed_file_that_ends_where_the_part_does_is_begun_anew(server, tiny, cache, cut_download):
    cut_download()
    server.files["weights.hdf5"], server.knows_if_range = bytes(40_960), False
    with pytest.raises(ElmoError, match="is not a model"):
        download("tiny")
    assert server.ranges == ["bytes=40960-", None]


def test_what_a_cut_download_leaves_is_not_taken_for_options(server, cache, monkeypatch, cut_download):
    files = (server.file("options.json", served="weights.hdf5"), server.file("weights.hdf5"))
    monkeypatch.setitem(KNOWN, "tiny", KnownModel("tiny", "en", "a tiny one", files))
    cut_download()
    assert names(cache / "tiny") == ["options.json.part", "options.json.part.version"]
    (cache / "tiny/weights.hdf5").touch()
    with pytest.raises(OptionsError, match=r"no options\.json beside it"):
        open_model(cache / "tiny").options  # noqa: B018
