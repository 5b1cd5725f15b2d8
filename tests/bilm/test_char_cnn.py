"""The character CNN compared with one that computes every window of every token."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacy_elmo.bilm import char_cnn


def close(bilm, words, slowly):
    with torch.no_grad():
        ours = bilm.embedder(words).numpy()
    weights = slowly.weights_of(bilm)
    expected = [slowly.embed(weights, bilm.options, word) for word in words]
    np.testing.assert_allclose(ours, np.reshape(expected, ours.shape), rtol=0, atol=1e-5)


@settings(max_examples=100)
@given(drawn=st.data())
def test_any_architecture_and_words_give_what_full_width_gives(strategies, make_bilm, slowly, drawn):
    bilm = make_bilm(**drawn.draw(strategies.architectures()))
    close(bilm, drawn.draw(st.lists(strategies.tokens(), max_size=8)), slowly)


@pytest.mark.parametrize(
    ("width", "max_characters"), [(1, 3), (2, 3), (3, 3), (1, 10), (2, 10), (3, 10), (9, 10), (10, 10)]
)
def test_every_length_of_word_under_every_width_of_filter(make_bilm, slowly, width, max_characters):
    bilm = make_bilm(filters=((width, 2),), max_characters=max_characters, n_highway=0)
    words = ["x" * length for length in range(max_characters + 3)]
    close(bilm, words, slowly)
    for word in words:
        close(bilm, [word], slowly)


def test_padding_wins_the_maximum_where_the_full_width_has_it_win(make_bilm, slowly):
    """One filter responds only to padding, so a word's value is that of the padding after it."""
    bilm = make_bilm(filters=((1, 1), (2, 1)), max_characters=8, n_highway=0, projection_dim=2, dim=2)
    with torch.no_grad():
        bilm.embedder.embedding.zero_()
        bilm.embedder.embedding[261] = 1.0
        for weight in bilm.embedder.filters:
            weight.fill_(1.0)
        for bias in bilm.embedder.biases:
            bias.zero_()
        values = bilm.embedder(["x" * length for length in range(8)]).tolist()
    close(bilm, ["x" * length for length in range(8)], slowly)
    # begin, end and up to 6 bytes: windows of size 1 see padding up to 5 bytes, those of size 2 see full padding up to
    # 4
    assert values == [[4, 8]] * 5 + [[4, 4], [0, 0], [0, 0]]


@pytest.mark.parametrize("positions", [1, 20, 10**6])
def test_the_size_of_chunks_changes_no_number(monkeypatch, make_bilm, slowly, positions):
    monkeypatch.setattr(char_cnn, "_CHUNK_POSITIONS", positions)
    close(make_bilm(), ["a", "somewhat longer", "", "mid", "a", "<S>", "x" * 100], slowly)


def test_words_come_back_in_the_order_they_went_in(make_bilm):
    bilm = make_bilm()
    words = ["short", "a much longer word", "x", "", "medium"]
    with torch.no_grad():
        together = bilm.embedder(words)
        for word, vector in zip(words, together, strict=True):
            torch.testing.assert_close(bilm.embedder([word])[0], vector, rtol=0, atol=1e-5)


def test_no_words_no_vectors(make_bilm):
    for projection_dim in (3, 5):  # 5 filters: the second has no projection
        bilm = make_bilm(projection_dim=projection_dim)
        assert bilm.embedder([]).shape == (0, projection_dim)


@given(lengths=st.lists(st.integers(2, 50), max_size=200), positions=st.integers(1, 3000))
def test_chunks_cover_every_word_once_and_keep_to_their_size(lengths, positions):
    lengths = np.array(sorted(lengths, reverse=True), dtype=np.int64)
    chunks = char_cnn._chunks(lengths, positions)
    assert [word for chunk in chunks for word in range(len(lengths))[chunk]] == list(range(len(lengths)))
    assert all(len(lengths[chunk]) == 1 or len(lengths[chunk]) * lengths[chunk][0] <= positions for chunk in chunks)
