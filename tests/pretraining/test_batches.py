import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_elmo.errors import CorpusError
from spacy_elmo.pretraining.batches import Batches, Resets
from spacy_elmo.pretraining.corpus import encode
from spacy_elmo.pretraining.vocabulary import Vocabulary

NEVER = Resets("batch", 0.0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Encode 40 documents in which every word is unique, so that a word identifies its position."""
    directory = tmp_path_factory.mktemp("batches")
    rng, number, documents = np.random.default_rng(0), 0, []
    for _ in range(40):
        sentences = []
        for _ in range(rng.integers(1, 5)):
            length = rng.integers(1, 8)
            sentences.append(" ".join(f"w{number + n}" for n in range(length)))
            number += length
        documents.append("\n".join(sentences))
    (directory / "text.txt").write_text("\n\n".join(documents))
    vocabulary = Vocabulary(["<S>", "</S>", "<UNK>", *(f"w{n}" for n in range(number))])
    return encode([directory / "text.txt"], vocabulary, 12, directory / "encoded")


@pytest.fixture(scope="module")
def place(corpus):
    """Map each forward target that is a word to its position in the corpus."""
    _, targets, _ = corpus.read(np.arange(corpus.n_positions))
    return {target: position for position, target in enumerate(targets[0].tolist()) if target > 2}


def make(corpus, rows=3, unroll_steps=7, resets=NEVER, shuffle=True, seed=0, own=slice(None)):
    return Batches(corpus, rows, unroll_steps, resets, shuffle, seed, own)


def epoch(batches, number):
    """Return the forward targets of a whole epoch, `[rows, positions]`."""
    steps = range(number * batches.steps_per_epoch, (number + 1) * batches.steps_per_epoch)
    return np.concatenate([batches.at(step).targets[0] for step in steps], axis=1)


shapes = {"rows": st.integers(1, 9), "unroll_steps": st.integers(1, 12), "seed": st.integers(0, 99)}


@given(shuffle=st.booleans(), number=st.integers(0, 3), **shapes)
def test_an_epoch_visits_each_position_once_but_for_less_than_a_batch(corpus, shuffle, number, **shape):
    batches = make(corpus, shuffle=shuffle, **shape)
    seen = epoch(batches, number)
    words = seen[seen > 2]
    assert len(set(words.tolist())) == len(words)
    assert 0 <= corpus.n_positions - seen.size < shape["rows"] * shape["unroll_steps"]


@given(shuffle=st.booleans(), number=st.integers(0, 3), **shapes)
def test_rows_read_on_where_the_batch_before_ended(corpus, place, shuffle, number, **shape):
    starts, ends = corpus.documents[:-1], corpus.documents[1:]
    for row in epoch(make(corpus, shuffle=shuffle, **shape), number).tolist():
        known = [(n, place[target]) for n, target in enumerate(row) if target > 2]
        for (n, here), (m, there) in itertools.pairwise(known):
            same = np.searchsorted(starts, here, "right") == np.searchsorted(starts, there, "right")
            if same:
                assert there - here == m - n
            else:  # the rest of one document, then the next from its beginning
                rest = ends[np.searchsorted(starts, here, "right") - 1] - here
                begun = there - starts[np.searchsorted(starts, there, "right") - 1]
                assert m - n == rest + begun


@given(
    own=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    step=st.integers(0, 30),
    kind=st.sampled_from(["batch", "sentence"]),
)
def test_rows_of_another_process_are_those_rows_of_the_whole(corpus, own, step, kind):
    first, last = sorted(own)
    resets = Resets(kind, 0.5)
    whole = make(corpus, rows=6, resets=resets).at(step)
    part = make(corpus, rows=6, resets=resets, own=slice(first, last)).at(step)
    assert np.array_equal(part.words, whole.words[:, first:last])
    assert np.array_equal(part.targets, whole.targets[:, first:last])
    assert np.array_equal(part.starts, whole.starts[first:last])


@given(step=st.integers(0, 80), kind=st.sampled_from(["batch", "sentence"]), **shapes)
def test_any_step_can_be_resumed_at(corpus, step, kind, **shape):
    resets = Resets(kind, 0.3)
    running = make(corpus, resets=resets, **shape)
    for before in range(step):
        running.at(before)
    expected, found = running.at(step), make(corpus, resets=resets, **shape).at(step)
    for name in ("words", "targets", "starts"):
        assert np.array_equal(getattr(expected, name), getattr(found, name))


def test_shuffling_orders_documents_anew_in_each_epoch_and_keeps_them_whole(corpus, place):
    batches = make(corpus, rows=1, unroll_steps=1)
    orders = []
    for number in range(3):
        seen = [place[target] for target in epoch(batches, number)[0].tolist() if target > 2]
        documents = np.searchsorted(corpus.documents, seen, "right") - 1
        order = [int(documents[0]), *(int(b) for a, b in itertools.pairwise(documents) if a != b)]
        assert sorted(order) == list(range(len(corpus.documents) - 1))
        for document in order:
            inside = [position for position, its in zip(seen, documents, strict=True) if its == document]
            assert inside == sorted(inside)
        orders.append(order)
    assert len({tuple(order) for order in orders}) == 3
    assert list(range(len(corpus.documents) - 1)) not in orders


def test_without_shuffling_every_epoch_is_in_the_order_of_the_text(corpus, place):
    batches = make(corpus, rows=1, unroll_steps=1, shuffle=False)
    for number in (0, 1):
        seen = [place[target] for target in epoch(batches, number)[0].tolist() if target > 2]
        assert seen == sorted(place.values())


def test_seeds_give_different_orders_and_resets(corpus):
    resets = Resets("batch", 0.5)
    first, second = (make(corpus, rows=1, seed=seed, resets=resets) for seed in (1, 2))
    assert not np.array_equal(epoch(first, 0), epoch(second, 0))
    starts = [[one.at(step).starts.tolist() for step in range(20)] for one in (first, second)]
    assert starts[0] != starts[1]


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_batch_resets_strike_before_a_batch_or_never(corpus, probability):
    batches = make(corpus, resets=Resets("batch", probability))
    for step in range(2 * batches.steps_per_epoch):
        starts = batches.at(step).starts
        assert (starts[:, 0] == probability).all()
        assert not starts[:, 1:].any()


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_sentence_resets_strike_at_documents_and_at_all_or_no_other_sentences(corpus, probability):
    batches = make(corpus, resets=Resets("sentence", probability))
    begin = np.isin(np.arange(corpus.n_positions), corpus.documents)
    position_of = {}
    words, targets, sentence_starts = corpus.read(np.arange(corpus.n_positions))
    expected = sentence_starts if probability else begin
    for position, pair in enumerate(zip(words[0].tolist(), targets[0].tolist(), strict=True)):
        position_of[pair] = position  # every (read, target) pair is unique
    assert len(position_of) == corpus.n_positions
    n_resets = 0
    for step in range(batches.steps_per_epoch):
        batch = batches.at(step)
        for row, targets_of_row, starts in zip(batch.words[0], batch.targets[0], batch.starts, strict=True):
            positions = [position_of[pair] for pair in zip(row.tolist(), targets_of_row.tolist(), strict=True)]
            due = expected[positions]
            due[0] |= step == 0  # an epoch begins: the row read other text before
            assert starts.tolist() == due.tolist()
            n_resets += starts.sum()
    assert n_resets > 30


def test_resets_are_drawn_anew_at_each_step(corpus):
    batches = make(corpus, rows=40, unroll_steps=1, resets=Resets("batch", 0.5))
    patterns = [batches.at(step).starts.tobytes() for step in range(5 * batches.steps_per_epoch)]
    assert len(patterns) > 50
    assert len(set(patterns)) == len(patterns)


@pytest.mark.parametrize("kind", ["batch", "sentence"])
def test_resets_are_about_as_frequent_as_asked_for(corpus, kind):
    batches = make(corpus, rows=4, resets=Resets(kind, 0.25))
    steps = [batches.at(step) for step in range(50 * batches.steps_per_epoch)]
    if kind == "batch":
        share = np.mean([batch.starts[:, 0].mean() for batch in steps])
    else:
        certain = make(corpus, rows=4, resets=Resets(kind, 0.0))
        possible = make(corpus, rows=4, resets=Resets(kind, 1.0))
        always = sum(certain.at(step).starts.sum() for step in range(len(steps)))
        most = sum(possible.at(step).starts.sum() for step in range(len(steps)))
        share = (sum(batch.starts.sum() for batch in steps) - always) / (most - always)
    assert share == pytest.approx(0.25, abs=0.03)


def test_corpus_smaller_than_a_batch_is_an_error_that_gives_the_sizes(make_corpus):
    corpus = make_corpus("a b c\nd\n")
    with pytest.raises(CorpusError, match=r"6 words and sentence ends.*2 rows x 4 unroll_steps = 8"):
        make(corpus, rows=2, unroll_steps=4)


def test_corpus_of_exactly_one_batch_is_enough(make_corpus):
    batches = make(make_corpus("a b c\nd\n"), rows=2, unroll_steps=3, shuffle=False)
    assert batches.steps_per_epoch == 1
    assert batches.at(0).targets[0].ravel().tolist() == [3, 4, 5, 1, 6, 1]
    assert batches.at(5).targets[1].ravel().tolist() == [5, 4, 3, 0, 6, 0]
