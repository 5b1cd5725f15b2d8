"""Connections are cut, or files change in between: what is resumed, and what starts again."""

import io
import json

import h5py
import pytest

from helpers.downloads import Downloading, wait_until
from helpers.files import contents, names, sha256
from spacy_elmo import ElmoError, OptionsError, WeightsError
from spacy_elmo.formats import load, open_model
from spacy_elmo.formats.known import KNOWN, KnownModel
from spacy_elmo.tools import download as tool
from spacy_elmo.tools.download import download


def changed(weights):
    """Return weights of the same size in which every number differs."""
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


def test_a_download_that_was_given_up_is_gone_on_with_by_the_next(server, tiny, cache, coming):
    weights = server.files["weights.hdf5"]
    tiny(sha256=sha256(weights))
    server.cuts = [40_960, 0, 0, 0]
    with pytest.raises(ElmoError, match=r"weights\.hdf5: no connection, or it was lost.*run the command again"):
        download("tiny")
    notes = ["options.json.part.version", "weights.hdf5.part.version"]
    assert names(coming) == ["options.json", notes[0], "weights.hdf5.part", notes[1]]
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


def test_a_part_that_was_already_whole_is_taken(server, tiny, cache, coming, cut_download):
    weights = server.files["weights.hdf5"]
    cut_download()
    (coming / "weights.hdf5.part").write_bytes(weights)
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
    with pytest.raises(ElmoError, match="sent no valid model"):
        download("tiny")
    assert server.ranges == ["bytes=40960-", None]


def test_what_a_cut_download_leaves_is_not_taken_for_options(server, cache, coming, monkeypatch, cut_download):
    files = (server.file("options.json", served="weights.hdf5"), server.file("weights.hdf5"))
    monkeypatch.setitem(KNOWN, "tiny", KnownModel("tiny", "en", "a tiny one", files))
    cut_download()
    assert names(coming) == ["options.json.part", "options.json.part.version"]
    (coming / "weights.hdf5").touch()
    with pytest.raises(OptionsError, match=r"no options\.json next to it"):
        open_model(coming).options  # noqa: B018


@pytest.mark.parametrize("header", ["ETag", "Last-Modified", "weak ETag", "nothing"])
def test_options_of_an_earlier_version_are_fetched_anew(server, tiny, cache, header, cut_download):
    """They were complete when the run was cut, and could not be told from those of the new weights."""
    server.validates_by = header
    cut_download()
    old = server.files["options.json"]
    new = server.files["options.json"] = old.replace(b'"cell_clip": 3', b'"cell_clip": 1')
    weights = server.files["weights.hdf5"] = changed(server.files["weights.hdf5"])
    assert new != old
    download("tiny")
    assert contents(cache / "tiny") == {"options.json": new, "weights.hdf5": weights}


def test_options_that_change_while_the_weights_come_are_fetched_anew(server, tiny, cache):
    server.gate.clear()
    downloading = Downloading()
    wait_until(lambda: server.ranges)
    new = server.files["options.json"] = server.files["options.json"].replace(b'"cell_clip": 3', b'"cell_clip": 1')
    server.gate.set()
    downloading.finish()
    assert (cache / "tiny/options.json").read_bytes() == new
    assert server.requests == [("options.json", None), ("weights.hdf5", None), ("options.json", None)]
    assert server.checks == ["options.json", "weights.hdf5"]


def test_a_server_that_replaces_its_files_all_the_time_is_an_error(server, tiny, cache, monkeypatch):
    monkeypatch.setattr(tool._Download, "is_current", lambda self: False)
    with pytest.raises(ElmoError, match="keeps replacing its files"):
        download("tiny")
    assert not (cache / "tiny").exists()


def test_what_earlier_versions_left_of_a_cut_download_is_gone_on_with_and_cleared_away(server, tiny, cache):
    weights, old = server.files["weights.hdf5"], cache / "tiny"
    note = json.dumps({"validator": server.validator("weights.hdf5")[1], "total": len(weights)})
    old.mkdir(parents=True)
    (old / "options.json").write_text("of an earlier version")
    (old / "weights.hdf5.part").write_bytes(weights[:40_960])
    (old / "weights.hdf5.part.version").write_text(note)
    (old / "tmpab12_xyz").write_text("of pooch")
    download("tiny")
    assert server.requests == [("options.json", None), ("weights.hdf5", "bytes=40960-")]
    assert contents(old) == {name: server.files[name] for name in ("options.json", "weights.hdf5")}
    assert names(cache) == ["tiny", "tiny.lock"]


def test_a_damaged_model_is_fetched_again_and_stays_until_then(server, tiny, cache):
    download("tiny")
    (cache / "tiny/weights.hdf5").write_bytes(b"damaged")
    server.status = [404]
    with pytest.raises(ElmoError, match="still published"):
        download("tiny")
    assert (cache / "tiny/weights.hdf5").read_bytes() == b"damaged"
    download("tiny")
    assert (cache / "tiny/weights.hdf5").read_bytes() == server.files["weights.hdf5"]
