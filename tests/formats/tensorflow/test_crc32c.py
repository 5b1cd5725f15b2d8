"""CRC-32C compared with the standard's values and with the same sum bit by bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.crc32c import bit_by_bit
from spacy_elmo.formats.tensorflow import crc32c as module
from spacy_elmo.formats.tensorflow.crc32c import crc32c


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # these four are in RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_standard_values(content, expected):
    assert crc32c(content) == expected


@given(st.binary(max_size=9000))
def test_any_bytes(content):
    assert crc32c(content) == bit_by_bit(content)


@pytest.mark.parametrize("length", [2048, 2049, 4095, 4096, 4097, 8191, 8192])
def test_lengths_around_those_of_lanes(length):
    content = np.random.default_rng(length).bytes(length)
    assert crc32c(content) == bit_by_bit(content)


def test_data_of_several_chunks(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 2**12)
    content = np.random.default_rng(0).bytes(3 * 2**12 + 77)
    assert crc32c(bytearray(content)) == bit_by_bit(content)
