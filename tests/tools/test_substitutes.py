import math

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc, DocBin

from helpers.models import write_predictor
from spacy_elmo.bilm import BiLM
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.errors import ElmoError
from spacy_elmo.pretraining.config import ModelConfig
from spacy_elmo.pretraining.evaluation import Evaluator
from spacy_elmo.tools import substitutes as module
from spacy_elmo.tools.substitutes import of_text, substitutes

WORDS = ["<S>", "</S>", "a", "b", "<UNK>", "c", "d"]
SENTENCES = [["a", "b", "c"], ["d"], ["unseen", "a", "東京", "b"], ["c", "c"], ["a"] * 9]
DIRECTIONS = ("forward", "backward")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Make a tiny model with random weights and a softmax that is far from uniform."""
    config = ModelConfig(
        dim=10, projection_dim=6, filters=((1, 4), (2, 6)), embedding_dim=4, max_characters_per_token=12
    )
    bilm, softmax = BiLM(config.options()), Softmax(len(WORDS), 6)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (*bilm.parameters(), *softmax.parameters()):
            parameter.normal_(
                std=1.5 * (parameter.shape[-2] if parameter.dim() > 1 else 4) ** -0.5, generator=generator
            )
        softmax.weight.mul_(3)
    return write_predictor(bilm, WORDS, tmp_path_factory.mktemp("model"), softmax)


@pytest.fixture
def evaluator(model):
    return Evaluator.load(model)


def direct(evaluator, sentence):
    """Return probabilities from the layers, in numpy: forward and backward, `[len(sentence) + 2, n_words]` each. Row i
    has the LM's probabilities for its next word after it has read position i."""
    top = evaluator.bilm.encode([sentence], keep_boundaries=True)[0][-1].astype(np.float64)
    weight, bias = (part.detach().numpy().astype(np.float64) for part in evaluator.softmax.parameters())
    width = top.shape[1] // 2
    exps = [np.exp(top[:, half] @ weight.T + bias) for half in (slice(0, width), slice(width, None))]
    return [exp / exp.sum(axis=1, keepdims=True) for exp in exps]


@pytest.mark.parametrize("chunk_bytes", [1, module._CHUNK_BYTES])
def test_probabilities_are_those_of_the_direct_computation(evaluator, monkeypatch, chunk_bytes):
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk_bytes)
    listed = [n for n, word in enumerate(WORDS) if word not in ("<S>", "</S>", "<UNK>")]
    for sentence, found in zip(SENTENCES, substitutes(evaluator, SENTENCES, 3), strict=True):
        forward, backward = direct(evaluator, sentence)
        assert [one.word for one in found] == sentence
        for place, one in enumerate(found):
            both = forward[place] * backward[place + 2]  # place 0 is <S>, so the word itself is at place + 1
            for ranking, expected in (
                (one.forward, forward[place]),
                (one.backward, backward[place + 2]),
                (one.combined, both / both.sum()),
            ):
                best = sorted(listed, key=lambda n: -expected[n])[:3]
                assert [word for word, _ in ranking.words] == [WORDS[n] for n in best]
                np.testing.assert_allclose([p for _, p in ranking.words], expected[best], rtol=1e-4)
                own = WORDS.index(sentence[place]) if one.known else WORDS.index("<UNK>")
                assert ranking.probability == pytest.approx(expected[own], rel=1e-4)


def test_perplexity_of_the_probabilities_is_what_evaluate_reports(evaluator):
    """Includes the words' own probabilities, and those of </S> and <S> at the ends, which belong to no word."""
    found = list(substitutes(evaluator, SENTENCES))
    reported = evaluator.perplexity(SENTENCES)
    for direction, name in enumerate(DIRECTIONS):
        loss = -sum(math.log(getattr(one, name).probability) for words in found for one in words)
        for sentence in SENTENCES:
            at_end = direct(evaluator, sentence)[direction]
            loss -= math.log(at_end[1, WORDS.index("<S>")] if direction else at_end[-2, WORDS.index("</S>")])
        expected = getattr(reported.zero_state, f"{name}_perplexity")
        assert math.exp(loss / reported.tokens) == pytest.approx(expected, rel=1e-5)


def test_unknown_words_get_substitutes_and_are_marked(evaluator):
    (found,) = substitutes(evaluator, [["unseen", "a", "<UNK>"]])
    assert [one.known for one in found] == [False, True, True]
    assert all(len(one.combined.words) == len(WORDS) - 3 for one in found)


def test_substitutes_look_at_the_other_words_only(evaluator):
    (one,), (other,) = (words[1:2] for words in substitutes(evaluator, [["a", "b", "c"], ["a", "東京", "c"]]))
    assert dict(one.combined.words) == pytest.approx(dict(other.combined.words), rel=1e-4)
    (changed,) = (words[1] for words in substitutes(evaluator, [["a", "b", "d"]]))
    assert dict(one.forward.words) == pytest.approx(dict(changed.forward.words), rel=1e-4)
    assert dict(one.backward.words) != pytest.approx(dict(changed.backward.words), rel=1e-4)


def test_substitutes_of_a_stream_do_not_depend_on_its_blocks(evaluator, monkeypatch):
    expected = list(substitutes(evaluator, SENTENCES))
    monkeypatch.setattr("spacy_elmo.pretraining.evaluation._BLOCK_TOKENS", 3)
    for one, other in zip(expected, substitutes(evaluator, iter(SENTENCES)), strict=True):
        for a, b in zip(one, other, strict=True):
            assert (a.word, a.known) == (b.word, b.known)
            assert a.combined.probability == pytest.approx(b.combined.probability, rel=1e-4)


def test_fewer_than_one_word_to_list_is_an_error(evaluator):
    with pytest.raises(ElmoError, match="top is 0"):
        list(substitutes(evaluator, SENTENCES, 0))


def test_text_without_a_sentence_is_an_error_naming_it(model, tmp_path):
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(ElmoError, match=r"blank\.txt: contains no sentence"):
        list(of_text(str(model), str(tmp_path / "blank.txt"), 5))


@pytest.mark.parametrize("missing", ["vocab.txt", "softmax.hdf5"])
def test_model_that_cannot_predict_words_is_an_error_naming_what_it_lacks(model, tmp_path, missing):
    (tmp_path / "text.txt").write_text("a b\n")
    (tmp_path / "model").mkdir()
    for file in model.iterdir():
        if file.name != missing:
            (tmp_path / "model" / file.name).symlink_to(file)
    with pytest.raises(ElmoError, match=f"{missing}: no such file|no {missing}, so its words are unknown"):
        list(of_text(str(tmp_path / "model"), str(tmp_path / "text.txt"), 5))


def test_component_puts_the_substitutes_on_tokens_sentence_by_sentence(model, evaluator):
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("elmo_substitutes", config={"model": str(model), "top": 2})
    doc = nlp("a b! \n\n unseen a")
    assert [token._.elmo_substitutes is None for token in doc] == [token.is_space for token in doc]
    expected = [one for words in substitutes(evaluator, [["a", "b", "!"], ["unseen", "a"]], 2) for one in words]
    found = [token._.elmo_substitutes for token in doc if not token.is_space]
    assert [one["word"] for one in found] == [one.word for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert dict(one["combined"]["words"]) == pytest.approx(dict(other.combined.words), rel=1e-4)


def test_component_is_saved_with_its_settings_and_its_work_travels(model, tmp_path):
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo_substitutes", config={"model": str(model), "top": 2})
    doc = nlp("a b")
    nlp.to_disk(tmp_path / "pipeline")
    again = spacy.load(tmp_path / "pipeline")("a b")
    (sent,) = DocBin(docs=[doc], store_user_data=True).get_docs(nlp.vocab)
    for other in (again, sent):
        assert other[1]._.elmo_substitutes["forward"]["probability"] == pytest.approx(
            doc[1]._.elmo_substitutes["forward"]["probability"]
        )
    assert [token._.elmo_substitutes for token in nlp("")] == []


def test_tokens_without_the_component_have_none_and_retokenized_ones_an_error(model):
    nlp = spacy.blank("en")
    assert Doc(nlp.vocab, words=["a"])[0]._.elmo_substitutes is None
    nlp.add_pipe("elmo_substitutes", config={"model": str(model)})
    doc = nlp("a b c")
    with doc.retokenize() as retokenizer:
        retokenizer.merge(doc[:2])
    with pytest.raises(ElmoError, match="3 tokens, but the Doc now has 2"):
        doc[0]._.elmo_substitutes  # noqa: B018


def test_reference_model_expects_a_comma_or_full_stop_where_there_is_one(shared):
    evaluator = Evaluator.load(shared / "references" / "bilm-tf-trained")
    (found,) = substitutes(evaluator, [["The", "city", "is", "the", "capital", "of", "the", "province", "."]], 5)
    assert found[-1].combined.words[0][0] == "."
    assert "the" in [word for word, _ in found[6].combined.words]
