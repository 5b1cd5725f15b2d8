import bz2
import gzip
import lzma
import random
import subprocess
import sys
from collections import Counter
from dataclasses import asdict

import pytest
import spacy

from spacy_elmo.errors import CorpusError
from spacy_elmo.pretraining.vocabulary import Vocabulary
from spacy_elmo.support.text import read_sentences
from spacy_elmo.tools import prepare as tool
from spacy_elmo.tools.prepare import prepare, summary, warning


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def contents(out):
    """Return the text of every file under `out` by its path."""
    return {str(path.relative_to(out)): path.read_bytes().decode() for path in out.rglob("*") if path.is_file()}


def some_text(documents, seed=0):
    """Return documents of a few paragraphs that are hard to tokenize."""
    pick = random.Random(seed)
    pieces = (
        "The U.S. economy didn't grow .",
        'He said: "Go away!" She left...',
        "Mr. Smith paid $3.50 (about €3).",
        "Yes.",
        "See https://example.org/a?b=c&d=1 for e-mail:x@y.org!",
        "  Odd\u00a0spaces\t here;\u2003so :-) :) ( :(( what?! ",
        "東京は大きい。そうです。",
        "Naïve café—co-operate, I'm can't've 10km/h.",
        "<S> is no word </S>.",
    )

    def paragraph():
        return " ".join([*pick.choices(pieces, k=pick.randint(1, 5)), f"Number {pick.randint(0, 10**6)}."])

    return "\n\n".join("\n".join(paragraph() for _ in range(pick.randint(1, 4))) for _ in range(documents)) + "\n"


def by_the_book(text, min_tokens):
    """Yield the sentences of each document, as for the bundled model's text: from spaCy, without whitespace."""
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    for document in text.strip().split("\n\n"):
        sentences = []
        for doc in nlp.pipe(line.strip() for line in document.split("\n")):
            for sentence in doc.sents:
                words = [token.text for token in sentence if not token.is_space]
                if len(words) >= min_tokens:
                    sentences.append(" ".join(words))
        yield sentences


@pytest.mark.parametrize("min_tokens", [1, 4])
def test_sentences_are_those_of_the_spacy_pipeline(raw, out, min_tokens):
    text = some_text(250)
    (raw / "a.txt").write_text(text)
    report = prepare(raw, out, min_tokens=min_tokens)

    documents = list(by_the_book(text, min_tokens))
    train = [document for n, document in enumerate(documents) if n % 100 != 50]
    heldout = [documents[50], documents[150]]
    for name, part, expected in (("train", report.train, train), ("heldout", report.heldout, heldout)):
        expected = [document for document in expected if document]
        written = (out / name / "a.txt").read_text()
        assert written == "\n".join("".join(line + "\n" for line in document) for document in expected)
        sentences = [sentence for document in expected for sentence in document]
        assert part.documents == len(expected)
        assert part.sentences == len(sentences)
        assert part.tokens == sum(len(sentence.split()) for sentence in sentences)


def test_number_of_processes_and_memory_of_the_tokenizer_change_nothing(raw, tmp_path, monkeypatch):
    for name in "ab":
        (raw / f"{name}.txt").write_text(some_text(300, seed=ord(name)))
    reports = [prepare(raw, tmp_path / "whole", shuffle=True)]
    monkeypatch.setattr(tool, "_BATCH", 2_000)
    monkeypatch.setattr(tool, "_REMEMBERED", 10_000)
    for n_process in (1, 2):
        reports.append(prepare(raw, tmp_path / f"by {n_process}", shuffle=True, n_process=n_process))
    assert reports[0] == reports[1] == reports[2]
    assert contents(tmp_path / "whole") == contents(tmp_path / "by 1") == contents(tmp_path / "by 2")


def test_crlf_and_blank_lines_with_spaces(raw, out):
    (raw / "a.txt").write_bytes(b"\r\n \r\nOne here. Two here.\r\nThree here.\r\n \t\r\n\r\nFour here.\r\n\r\n")
    report = prepare(raw, out)
    assert (out / "train/a.txt").read_bytes() == b"One here .\nTwo here .\nThree here .\n\nFour here .\n"
    assert report.train == tool.Part(documents=2, sentences=4, tokens=12)


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)])
def test_packed_text_is_read_and_its_suffixes_dropped(raw, out, suffix, pack):
    (raw / f"a.b.txt{suffix}").write_bytes(pack(b"See here.\n\nSee there.\n"))
    prepare(raw, out)
    assert (out / "train/a.b.txt").read_text() == "See here .\n\nSee there .\n"


def test_every_file_counts_its_documents_from_0(raw, out):
    for name in ("a.txt", "b"):
        (raw / name).write_text("\n\n".join(f"{name} {n}" for n in range(11)))
    report = prepare(raw, out, held_out=0.25)
    assert (out / "heldout/a.txt").read_text() == "a.txt 2\n\na.txt 6\n\na.txt 10\n"
    assert (out / "heldout/b.txt").read_text() == "b 2\n\nb 6\n\nb 10\n"
    assert (out / "train/b.txt").read_text().split("\n\n")[:3] == ["b 0", "b 1", "b 3"]
    assert report.heldout == tool.Part(documents=6, sentences=6, tokens=12)


@pytest.mark.parametrize("around", ["", "\n"])
def test_of_one_document_paragraphs_are_held_out(raw, out, around):
    (raw / "a.txt").write_text(around + "\n".join(f"line {n}" for n in range(6)) + "\n" + around)
    report = prepare(raw, out, held_out=0.33)
    assert (out / "heldout/a.txt").read_text() == "line 1\nline 4\n"
    assert (out / "train/a.txt").read_text() == "line 0\nline 2\nline 3\nline 5\n"
    assert report.train.documents == report.heldout.documents == 1


def test_nothing_held_out(raw, out):
    (raw / "a.txt").write_text(some_text(120))
    report = prepare(raw, out, held_out=0)
    assert report.heldout == tool.Part()
    assert sorted(path.name for path in out.iterdir()) == ["train", "vocab.txt"]


def test_duplicates_are_dropped_and_leave_the_numbers_of_documents(raw, out):
    (raw / "a.txt").write_text("same\nnew a\n\nsame\n\nlast a\n")
    (raw / "b.txt").write_text("new b\n same \n\nnew b\n\nnew a\n\nlast b\n")
    report = prepare(raw, out, held_out=0.25, dedupe=True)
    assert report.duplicates == 4
    assert contents(out) == {
        "train/a.txt": "same\nnew a\n",
        "heldout/a.txt": "last a\n",
        "train/b.txt": "new b\n\nlast b\n",
        "vocab.txt": "<S>\n</S>\n<UNK>\n",
    }


def test_duplicates_stay_unless_asked(raw, out):
    (raw / "a.txt").write_text("same\n\nsame\n")
    assert prepare(raw, out).duplicates == 0
    assert (out / "train/a.txt").read_text() == "same\n\nsame\n"


def test_shuffling_keeps_the_sentences_and_drops_the_documents(raw, tmp_path):
    (raw / "a.txt").write_text(some_text(150))
    (raw / "b.txt").write_text(some_text(150))
    outs = {}
    for name, settings in {
        "no": {},
        "0": {"shuffle": True},
        "again": {"shuffle": True},
        "1": {"shuffle": True},
    }.items():
        prepare(raw, tmp_path / name, seed=int(name == "1"), **settings)
        outs[name] = contents(tmp_path / name)
    assert sorted(outs["0"]["train/a.txt"].splitlines()) == sorted(
        outs["no"]["train/a.txt"].replace("\n\n", "\n").splitlines()
    )
    assert outs["0"] == outs["again"]
    assert outs["0"]["train/a.txt"] != outs["1"]["train/a.txt"]
    assert outs["0"]["train/a.txt"] != outs["0"]["train/b.txt"], "the same order in each file"
    for same in ("heldout/a.txt", "vocab.txt"):
        assert outs["0"][same] == outs["no"][same]


def test_vocabulary_is_of_the_training_part_by_falling_count(raw, out):
    (raw / "a.txt").write_text("b b b c c a a d\n\nheld held held\n")
    report = prepare(raw, out, held_out=0.5, min_count=2)
    assert (out / "vocab.txt").read_text() == "<S>\n</S>\n<UNK>\nb\na\nc\n"
    assert report.vocabulary == 6
    assert report.coverage == pytest.approx(7 / 8)


def test_size_and_coverage_of_the_vocabulary(raw, out):
    (raw / "a.txt").write_text("b b b c c a\n")
    report = prepare(raw, out, min_count=1, max_size=5)
    assert Vocabulary.from_file(out / "vocab.txt").words == ["<S>", "</S>", "<UNK>", "b", "c"]
    assert report.coverage == pytest.approx(5 / 6)


def test_reading_back_gives_the_words_that_were_counted(raw, out):
    (raw / "a.txt").write_text(some_text(60) + "\n\x1c\x85odd\u2028ends\x0b \u200b.\n")
    report = prepare(raw, out, held_out=0, min_count=1)
    sentences = list(read_sentences([out / "train/a.txt"]))
    assert report.train.sentences == len(sentences)
    assert report.train.tokens == sum(len(words) for words, _ in sentences)
    assert report.train.documents == sum(begins for _, begins in sentences)
    assert set(Counter(word for words, _ in sentences for word in words)) <= set(
        Vocabulary.from_file(out / "vocab.txt").words
    )


def test_another_language(raw, out):
    (raw / "a.txt").write_text("Das ist z.B. gut. Ja!\n")
    prepare(raw, out, lang="de")
    assert (out / "train/a.txt").read_text() == "Das ist z.B. gut .\nJa !\n"


@pytest.mark.parametrize(("held_out", "share"), [(0.01, "0.01"), (0.5, None), (0.0, None)])
def test_text_too_short_for_its_held_out_share_is_warned_about(raw, out, held_out, share):
    for name in "abc":
        (raw / f"{name}.txt").write_text("one\n\ntwo\n\nthree\n")
    told = warning(prepare(raw, out, held_out=held_out), held_out)
    assert told is None if share is None else "document 51" in told and share in told


def test_line_of_a_hundred_thousand_words_is_one_sentence(raw, out):
    (raw / "a.txt").write_text("word " * 100_000 + "\n")
    report = prepare(raw, out)
    assert (report.train.sentences, report.train.tokens) == (1, 100_000)


def test_summary_tells_what_was_written(raw, out):
    (raw / "a.txt").write_text("b b b c c a\n\nb b b c c a\n\nheld\n\nlast\n")
    told = summary(prepare(raw, out, held_out=0.25, dedupe=True))
    assert "train       2 documents, 2 sentences, 7 tokens" in told
    assert "held out    1 documents, 1 sentences, 1 tokens" in told
    assert "1 paragraphs" in told
    assert "42.86%" in told


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lang": "qqq"}, "'qqq'"),
        ({"held_out": 0.7}, "0.7"),
        ({"held_out": -0.1}, "-0.1"),
        ({"held_out": float("nan")}, "nan"),
        ({"max_size": 3}, "max_size"),
        ({"min_tokens": 99}, "min_tokens"),
    ],
)
def test_wrong_settings_are_named_and_nothing_is_written(raw, out, settings, words):
    (raw / "a.txt").write_text("Some text.\n")
    with pytest.raises(CorpusError, match=words):
        prepare(raw, out, **settings)
    assert not out.exists()


@pytest.mark.parametrize("text", [b"", b" \n\r\n\n"])
def test_an_empty_corpus_is_an_error_and_nothing_is_written(raw, out, text):
    (raw / "a.txt").write_bytes(text)
    with pytest.raises(CorpusError, match="no sentence to train on"):
        prepare(raw, out)
    assert not out.exists()


def test_no_text_at_all(tmp_path, out):
    with pytest.raises(CorpusError, match="no such text"):
        prepare(tmp_path / "nowhere", out)
    assert not out.exists()


@pytest.mark.parametrize("n_process", [1, 2])
def test_a_damaged_file_in_the_middle_leaves_nothing(raw, out, monkeypatch, n_process):
    monkeypatch.setattr(tool, "_BATCH", 1_000)
    (raw / "a.txt").write_text(some_text(50))
    (raw / "b.txt").write_bytes(some_text(50).encode() + b"\n\nnot \xff UTF-8\n")
    out.mkdir()
    (out / "notes").write_text("the user's")
    with pytest.raises(CorpusError, match=r"b\.txt, line \d+: not UTF-8"):
        prepare(raw, out, n_process=n_process)
    assert contents(out) == {"notes": "the user's"}
    assert [path.name for path in out.iterdir()] == ["notes"]


def test_interruption_leaves_nothing(raw, out, monkeypatch):
    (raw / "a.txt").write_text(some_text(5))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, "_shuffle", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(raw, out, shuffle=True)
    assert not out.exists()


@pytest.mark.parametrize("there", ["train", "heldout", "vocab.txt"])
def test_earlier_results_are_neither_overwritten_nor_mixed(raw, out, there):
    (raw / "a.txt").write_text("Some text.\n")
    out.mkdir()
    (out / there).write_text("earlier")
    with pytest.raises(CorpusError, match="already exists"):
        prepare(raw, out)
    assert contents(out) == {there: "earlier"}


@pytest.mark.parametrize("others", [False, True])
def test_what_a_killed_run_had_finished_but_for_the_last_moves_is_there(raw, out, others):
    """All files were written, and only some of the renames were left."""
    out.mkdir()
    if others:
        (out / "notes").write_text("mine")
    for name, text in {"vocab.txt": "v", "train/a.txt": "t", "heldout/a.txt": "h"}.items():
        (out / ".incoming" / name).parent.mkdir(parents=True, exist_ok=True)
        (out / ".incoming" / name).write_text(text)
    (out / "vocab.txt").write_text("v")
    (raw / "a.txt").write_text("Some text.\n")
    with pytest.raises(CorpusError, match="already exists"):
        prepare(raw, out)
    expected = {"vocab.txt": "v", "train/a.txt": "t", "heldout/a.txt": "h", **({"notes": "mine"} if others else {})}
    assert contents(out) == expected


def test_what_a_killed_run_had_begun_is_cleared_away(raw, out):
    left = out.parent / ".out.0123456789ab.part"
    (left / "train").mkdir(parents=True)
    (raw / "a.txt").write_text("Some text.\n")
    prepare(raw, out)
    assert not left.exists()
    assert sorted(path.name for path in out.iterdir()) == ["train", "vocab.txt"]


KILLED = """
import os, sys, time
from spacy_elmo.tools import prepare as tool
tool._BATCH = 10
def read(files, every, advance, _read=tool._read):
    yield from _read(files, every, advance)
    print("all is read", flush=True)
    time.sleep(600)
tool._read = read
tool.prepare(sys.argv[1], sys.argv[2], n_process=2)
"""


def test_workers_end_when_the_run_is_killed(raw, out):
    (raw / "a.txt").write_text("Some text.\n" * 100)
    process = subprocess.Popen([sys.executable, "-c", KILLED, raw, out], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"all is read\n"
    process.kill()
    process.communicate(timeout=60)  # the output ends when all workers have exited
    assert not out.exists()


def test_a_place_that_cannot_be_written(raw, tmp_path):
    (raw / "a.txt").write_text("Some text.\n")
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match=r"file.*cannot be written"):
        prepare(raw, tmp_path / "file")


def test_two_files_of_one_name(raw, out):
    (raw / "a.txt").write_text("Some text.\n")
    (raw / "a.gz").write_bytes(gzip.compress(b"Other text.\n"))
    with pytest.raises(CorpusError, match=r"a\.gz and .*a\.txt: both would become a\.txt"):
        prepare(raw, out)
    assert not out.exists()


def test_two_names_that_are_one_file_on_some_systems(raw, out):
    for name in ("A.txt", "a.txt.gz"):
        (raw / name).write_text("One sentence.\n")
    with pytest.raises(CorpusError, match=r"A\.txt and .*a\.txt\.gz: both would become"):
        prepare(raw, out, held_out=0.5)
    assert not out.exists()


def test_files_without_sentences_are_not_written(raw, out):
    (raw / "a.txt").write_text("Some text.\n")
    (raw / "b.txt").write_text("\n")
    report = prepare(raw, out)
    assert sorted(contents(out)) == ["train/a.txt", "vocab.txt"]
    assert asdict(report)["train"] == {"documents": 1, "sentences": 1, "tokens": 3}
