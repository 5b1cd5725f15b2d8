"""Errors show only a short part of a hostile file, on one line."""

import pytest

from spacy_elmo.support.messages import listed, quoted, reason


def deep():
    value = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\nb", r"'a\nb'"),
        (1.5, "1.5"),
        ("\ud800", r"'\ud800'"),
        ("x" * 1000, "'" + "x" * 99 + "…"),
        (10**5000, "int that cannot be shown"),
    ],
    ids=["text", "number", "surrogate", "long text", "long number"],
)
def test_a_value_is_shown_as_python_writes_it(value, shown):
    assert quoted(value) == shown


def test_lists_within_lists_can_be_shown():
    assert len(quoted(deep())) <= 101


def test_names_are_joined_and_odd_characters_escaped():
    assert listed(["a", "b\n", "\udcff\x1b", "é"]) == r"a, b\n, \udcff\x1b, é"
    assert len(listed(["x" * 50] * 1000)) == 201


def test_a_reason_is_one_short_line():
    assert reason(OSError("what\n is   wrong: " + "\0" * 500)) == "what is wrong: " + r"\x00" * 46 + r"\…"
    assert len(reason(OSError("\n".join("x" * 5000)))) == 201
