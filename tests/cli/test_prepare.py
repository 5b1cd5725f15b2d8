import json

import pytest

TEXT = "One is here. Two are here.\n\nThree are here.\n\nFour! Five are here.\n"


@pytest.fixture
def prepare(elmo, tmp_path):
    """Run the command in tmp_path on a small text. Returns exit status, stdout and stderr."""
    (tmp_path / "raw.txt").write_text(TEXT)

    def run(*args, raw="raw.txt"):
        return elmo("prepare", tmp_path / raw, tmp_path / "out", *args)

    return run


def test_json_is_one_object_and_progress_is_elsewhere(prepare, tmp_path):
    status, printed, progress = prepare("--json", "--held-out", "0.5", "--min-tokens", "3", "--min-count", "2")
    assert status == 0
    assert json.loads(printed) == {
        "train": {"documents": 2, "sentences": 3, "tokens": 12},
        "heldout": {"documents": 1, "sentences": 1, "tokens": 4},
        "duplicates": 0,
        "vocabulary": 6,
        "coverage": pytest.approx(8 / 12),
    }
    assert "prepare" in progress
    assert (tmp_path / "out/train/raw.txt").read_text() == "One is here .\nTwo are here .\n\nFive are here .\n"
    assert (tmp_path / "out/heldout/raw.txt").read_text() == "Three are here .\n"
    assert (tmp_path / "out/vocab.txt").read_text().split()[3:] == [".", "here", "are"]


def test_quiet_prints_the_summary_only(prepare):
    status, printed, progress = prepare("--quiet")
    assert status == 0
    assert len(printed.splitlines()) == 3
    assert progress == ""


def test_vocabulary_that_lacks_most_words_is_warned_about(prepare):
    warnings = [line for line in prepare("--held-out", "0", "--min-count", "4")[2].splitlines() if "⚠" in line]
    assert len(warnings) == 1
    assert "vocab.txt: 56% of the words of the corpus are not in the vocabulary" in warnings[0]
    assert "min_count is not too high" in warnings[0]


def test_vocabulary_with_most_words_is_not_warned_about(prepare):
    assert "⚠" not in prepare("--held-out", "0", "--min-count", "1")[2]


def test_second_run_is_one_line_and_status_1(prepare):
    prepare()
    status, printed, said = prepare()
    assert (status, printed) == (1, "")
    assert len(said.splitlines()) == 1
    assert "already exists" in said


def test_no_text_is_one_line_and_status_1(prepare):
    status, printed, said = prepare(raw="nowhere")
    assert (status, printed) == (1, "")
    assert "nowhere" in said


@pytest.mark.parametrize("wrong", [["--held-out", "0.7"], ["--min-tokens", "0"], ["--n-process", "0"], ["--what"]])
def test_wrong_usage_is_status_2(prepare, wrong):
    assert prepare(*wrong)[0] == 2


def test_help_has_an_example(elmo_process):
    done = elmo_process("prepare", "--help")
    assert done.status == 0
    assert "python -m spacy elmo prepare" in done.stdout
