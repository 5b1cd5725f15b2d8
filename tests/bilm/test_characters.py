"""Character ids: bytes plus one, between markers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_elmo.bilm import characters

ANY_TEXT = st.text(st.characters(codec=None), max_size=60)


def test_ids_of_a_word():
    assert characters.token_ids("cat", 50) == [259, ord("c") + 1, ord("a") + 1, ord("t") + 1, 260]


def test_ids_are_of_bytes_not_of_code_points():
    assert characters.token_ids("é", 50) == [259, 0xC3 + 1, 0xA9 + 1, 260]
    assert characters.token_ids("😀", 50) == [259, 0xF0 + 1, 0x9F + 1, 0x98 + 1, 0x80 + 1, 260]


def test_an_empty_token_is_its_markers():
    assert characters.token_ids("", 50) == [259, 260]


@pytest.mark.parametrize(("marker", "number"), [("<S>", 257), ("</S>", 258)])
def test_sentence_markers_are_one_character(marker, number):
    assert characters.token_ids(marker, 50) == [259, number, 260]
    assert characters.token_ids(marker.lower(), 50) == [259, *(byte + 1 for byte in marker.lower().encode()), 260]


def test_lone_surrogates_have_no_bytes():
    for token in ("\ud800", "\udfff", "\udc80\ud83d"):
        assert characters.token_ids(token, 50) == [259, 260]
        assert characters.token_ids(f"a{token}b", 50) == characters.token_ids("ab", 50)


@pytest.mark.parametrize("length", [47, 48, 49, 50, 10_000])
def test_a_word_is_cut_to_leave_room_for_its_markers(length):
    assert characters.token_ids("x" * length, 50) == [259, *[ord("x") + 1] * min(length, 48), 260]


def test_a_cut_may_fall_into_a_code_point():
    assert characters.token_ids("éé", 5) == [259, 0xC3 + 1, 0xA9 + 1, 0xC3 + 1, 260]


@given(token=ANY_TEXT, max_characters=st.integers(3, 60))
def test_ids_hold_the_bytes_within_limit_and_range(token, max_characters):
    begin, *inner, end = characters.token_ids(token, max_characters)
    assert (begin, end) == (259, 260)
    assert len(inner) <= max_characters - 2
    if token not in ("<S>", "</S>"):
        assert bytes(number - 1 for number in inner) == token.encode("utf8", "ignore")[: max_characters - 2]


@given(tokens=st.lists(ANY_TEXT, max_size=5))
def test_padding_fills_up_behind_the_ids(tokens):
    ids = [characters.token_ids(token, 20) for token in tokens]
    padded = characters.pad(ids, 25)
    assert padded.shape == (len(tokens), 25)
    assert padded.dtype == np.int64
    for row, token in zip(padded.tolist(), ids, strict=True):
        assert row == token + [261] * (25 - len(token))
