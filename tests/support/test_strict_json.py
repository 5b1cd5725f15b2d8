"""JSON that can be written again, and JSON that cannot."""

import json

import pytest
import srsly
from hypothesis import given
from hypothesis import strategies as st

from spacy_elmo.support import strict_json

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


def is_taken(value):
    try:
        strict_json.check(value)
    except ValueError:
        return False
    return True


@given(VALUES)
def test_what_is_taken_can_be_written_and_only_what_cannot_is_refused(value):
    try:
        json.dumps(value, ensure_ascii=False).encode()
        srsly.msgpack_dumps(value)
    except (ValueError, OverflowError):
        assert not is_taken(value)
    else:
        assert is_taken(value)


@pytest.mark.parametrize("wrap", [lambda node: [node], lambda node: {"a": node}], ids=["lists", "objects"])
def test_a_hundred_levels_are_taken_and_written_and_more_are_refused(wrap):
    value = 1
    for _ in range(100):
        value = wrap(value)
    strict_json.check(value)
    assert srsly.msgpack_loads(srsly.msgpack_dumps(value)) == json.loads(json.dumps(value, indent=1)) == value
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        strict_json.check(wrap(value))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "nested"),
        (b'["\\ud800"]', "half a character"),
        (b'{"\\udc00": 1}', "half a character"),
        (b"[18446744073709551616]", "more than 64 bits"),
        (b"[-9223372036854775809]", "more than 64 bits"),
        (b"9" * 5000, "digits"),
        (b"{", "line 1"),
        (b"\xff", "decode"),
    ],
)
def test_other_content_is_refused_with_a_reason(content, message):
    with pytest.raises(ValueError, match=message):
        strict_json.loads(content)


def test_json_is_read():
    assert strict_json.loads(b'{"a": [1, 2.5, null, true, "\\ud83d\\ude00"]}') == {"a": [1, 2.5, None, True, "😀"]}
