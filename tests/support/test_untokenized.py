import gzip

import pytest

from spacy_elmo.support.untokenized import find_doubt

TOKENIZED = [
    "Mr. Smith of Acme Corp. left at 5 p.m. .",
    "She said : “ No , thanks ! ”",
    "RT @you : see http://a.b/c , 1,000 of them etc. ...",
    "今日 は 、 いい 天気 です 。",
    "one two three",
]
RAW = [
    "The bank lent money.",
    "Well, she said it.",
    "“Why?” he asked.",
    "今日はいい天気です。",
    "no punctuation",
    "Übung: 3",
]


@pytest.fixture
def doubt(tmp_path):
    def of(lines, name="text.txt"):
        path = tmp_path / name
        content = "".join(f"{line}\n" for line in lines).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return find_doubt([path])

    return of


def test_tokenized_text_raises_none(doubt):
    assert doubt(TOKENIZED * 50) is None
    assert doubt([]) is None


@pytest.mark.parametrize("line", [line for line in RAW if "no p" not in line])
def test_a_line_of_raw_text_raises_one(doubt, line):
    assert "looks like raw text" in doubt([line])


def test_the_glued_word_is_shown(doubt):
    assert "'money.' is one word" in doubt(RAW)
    assert "'thanks!”' is one word" in doubt(["She said , “ No thanks!” and left"])


def test_a_few_such_lines_are_no_raw_text(doubt):
    assert doubt([*TOKENIZED * 4, "Yahoo! was bought", "Good morning, Anna", "See above:"]) is None
    assert doubt([*TOKENIZED, *RAW]) is not None


@pytest.mark.parametrize("name", ["a.csv", "a.TSV", "a.jsonl", "a.csv.gz"])
def test_tables_raise_one_whatever_they_hold(doubt, name):
    assert "looks like a table" in doubt(TOKENIZED, name)


def test_the_first_file_with_a_doubt_is_named(tmp_path):
    for name, line in (("a.txt", TOKENIZED[0]), ("b.txt", RAW[0]), ("c.txt", RAW[1])):
        (tmp_path / name).write_text(line)
    assert find_doubt(sorted(tmp_path.iterdir())).startswith(f"{tmp_path / 'b.txt'}: ")
