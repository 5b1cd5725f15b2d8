import numpy as np
import pytest

LETTERS = [chr(ord("a") + number) * 3 for number in range(19)]


@pytest.fixture
def overlap(import_training):
    return import_training("overlap")


@pytest.fixture
def runs(overlap):
    """Return a function from text to the hashes of its runs."""
    words = overlap.Words()
    return lambda text: overlap.runs(words(text)[1])


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Don't GO, he said - twice!", "do n't go he said twice"),
        ("It’s “fine”", "it 's fine"),
        ("born in 1989", "born in 2001"),
    ],
)
def test_words_are_alike_whatever_the_case_punctuation_and_figures(overlap, text, same):
    words = overlap.Words()
    assert words(text)[1].tolist() == words(same)[1].tolist()


def test_tokens_count_punctuation_and_words_do_not(overlap):
    tokens, words = overlap.Words()("Well, I can't - really.")
    assert (tokens, len(words)) == (8, 5)


def test_a_run_has_13_words_or_all_of_a_shorter_text(runs):
    assert len(runs(" ".join(LETTERS[:15]))) == 3
    assert len(runs(" ".join(LETTERS[:13]))) == len(runs(" ".join(LETTERS[:7]))) == 1


def test_the_order_of_words_matters(runs):
    assert runs(" ".join(LETTERS[:13])) != runs(" ".join(reversed(LETTERS[:13])))


def test_evaluation_text_is_found_by_13_words_in_a_row_and_not_by_12(overlap, runs):
    known = overlap.EvaluationRuns([overlap.Words()(" ".join(LETTERS))[1]])
    assert known.has_any(runs("Before it " + ", ".join(LETTERS[3:16]).upper() + " behind."))
    assert not known.has_any(runs("Before it " + " ".join(LETTERS[3:15]) + " behind."))


def test_no_evaluation_text_matches_nothing(overlap, runs):
    assert not overlap.EvaluationRuns([]).has_any(runs(" ".join(LETTERS)))


def test_share_of_runs_seen_before(overlap, runs):
    seen = overlap.SeenRuns(bits=20)
    random = np.random.default_rng(0).integers(0, 2**63, 2000, dtype=np.uint64)
    seen.add(random[:1000])
    assert seen.share(random[:1000]) == 1
    assert seen.share(random) == pytest.approx(0.5, abs=0.05)
    assert seen.share(random[1000:]) < 0.01


def test_a_text_too_short_for_the_sample_is_seen_all_the_same(overlap, runs):
    for number in range(20):
        seen = overlap.SeenRuns(bits=20)
        text = runs(f"Nothing is as short as {LETTERS[number % 19]} was.")
        assert seen.share(text) == 0
        seen.add(text)
        assert seen.share(text) == 1
