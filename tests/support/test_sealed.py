"""Bytes with their checksum in front."""

import pytest

from spacy_elmo import WeightsError
from spacy_elmo.support.sealed import seal, unseal


def test_what_was_sealed_comes_back():
    assert unseal(seal(b"content"), "x") == b"content"
    assert unseal(memoryview(seal(b"")), "x") == b""


def test_bytes_of_earlier_versions_are_as_they_are():
    assert unseal(b"\x81 others", "x") == b"\x81 others"


def test_every_change_behind_the_first_line_is_seen():
    sealed = seal(b"content")
    first = sealed.index(b"\n") + 1
    for place in range(first, len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(WeightsError, match="x: the bytes are damaged"):
            unseal(bytes(changed), "x")
    for end in range(first, len(sealed)):
        with pytest.raises(WeightsError, match="damaged"):
            unseal(sealed[:end], "x")


def test_something_else_than_bytes_is_refused():
    with pytest.raises(WeightsError, match="expected bytes, got str"):
        unseal("content", "x")
