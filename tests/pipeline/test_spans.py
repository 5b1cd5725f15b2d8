import pytest
import spacy
from spacy.tokens import Doc

from spacy_elmo import ElmoError
from spacy_elmo.pipeline.spans import doc_spans, sentence_spans, token_sequences

VOCAB = spacy.blank("en").vocab


def sequences(doc, get_spans, max_length=1000):
    return [indices.tolist() for indices in token_sequences(doc, get_spans, max_length)]


def test_sentences_where_set():
    doc = Doc(VOCAB, words=list("abcde"), sent_starts=[True, False, True, False, False])
    assert sequences(doc, sentence_spans()) == [[0, 1], [2, 3, 4]]
    assert sequences(doc, doc_spans()) == [[0, 1, 2, 3, 4]]


def test_whole_doc_where_no_sentences_are_set():
    assert sequences(Doc(VOCAB, words=list("abc")), sentence_spans()) == [[0, 1, 2]]
    assert sequences(Doc(VOCAB, words=["a"]), sentence_spans()) == [[0]]
    assert sequences(Doc(VOCAB), sentence_spans()) == []


def test_whitespace_is_dropped_and_leaves_no_empty_sequence():
    doc = Doc(VOCAB, words=["\n", "a", " ", "b", " "], sent_starts=[True, True, False, False, True])
    assert sequences(doc, sentence_spans()) == [[1, 3]]
    assert sequences(Doc(VOCAB, words=[" "]), sentence_spans()) == []


def test_long_sequences_are_cut():
    doc = Doc(VOCAB, words=list("abcdefg"))
    assert sequences(doc, doc_spans(), 3) == [[0, 1, 2], [3, 4, 5], [6]]


def test_overlapping_spans_are_an_error():
    doc = Doc(VOCAB, words=list("abcd"))
    with pytest.raises(ElmoError, match=r"\[1:4\]"):
        token_sequences(doc, lambda doc: [doc[0:2], doc[1:4]], 10)


@pytest.mark.parametrize("wrong", [[(0, 2)], ["ab"], [0]])
def test_what_is_no_span_is_an_error(wrong):
    with pytest.raises(ElmoError, match="get_spans"):
        token_sequences(Doc(VOCAB, words=list("abcd")), lambda _: wrong, 10)


def test_spans_of_another_doc_are_an_error():
    doc, other = Doc(VOCAB, words=list("abcd")), Doc(VOCAB, words=list("abcd"))
    with pytest.raises(ElmoError, match="another Doc"):
        token_sequences(doc, lambda _: [other[0:2]], 10)
