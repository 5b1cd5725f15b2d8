import math

import pytest
import spacy
import torch

import spacy_elmo
from helpers.models import write_predictor
from spacy_elmo import formats
from spacy_elmo.errors import ElmoError
from spacy_elmo.pretraining.evaluation import Evaluator

WORDS = ["<S>", "</S>", "<UNK>", "the", "bank", "n't", "."]
TEXTS = [["The", "bank", "did", "n't", "fall", "."], ["the", "bank"], ["."]]


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    return write_predictor(formats.load(data / "tiny_2l_skip"), WORDS, tmp_path_factory.mktemp("predictor"))


@pytest.fixture(scope="module")
def apart(model, data, tmp_path_factory):
    """Make a folder with the model's softmax and without its weights."""
    folder = tmp_path_factory.mktemp("apart")
    for name in ("vocab.txt", "softmax.hdf5"):
        (folder / name).write_bytes((model / name).read_bytes())
    return folder


def test_log_probabilities_are_those_of_each_prediction(model):
    """Compares with the sum of each word's log probability under the softmax over the vocabulary."""
    evaluator = Evaluator.load(model)
    (batch,) = evaluator.predictions(TEXTS)
    logits = batch.hidden.double() @ evaluator.softmax.weight.double().T + evaluator.softmax.bias.double()
    chosen = logits.log_softmax(-1).gather(2, batch.targets[..., None]).squeeze(2)
    for number, one in enumerate(spacy_elmo.score(TEXTS, model)):
        forward, backward = chosen[:, batch.sentences == number].sum(1).tolist()
        n = len(TEXTS[number]) + 1
        assert one.words == TEXTS[number]
        assert one.forward_log_probability == pytest.approx(forward, abs=1e-4)
        assert one.backward_log_probability == pytest.approx(backward, abs=1e-4)
        assert one.log_probability == pytest.approx((forward + backward) / 2, abs=1e-4)
        assert one.forward_perplexity == pytest.approx(math.exp(-forward / n), rel=1e-4)
        assert one.backward_perplexity == pytest.approx(math.exp(-backward / n), rel=1e-4)
        assert one.perplexity == pytest.approx(math.exp(-(forward + backward) / 2 / n), rel=1e-4)


def test_sentences_together_have_the_perplexity_of_the_text(model):
    scores = spacy_elmo.score(TEXTS, model)
    n = sum(len(one.words) + 1 for one in scores)
    whole = Evaluator.load(model).perplexity(TEXTS).zero_state.perplexity
    assert math.exp(-sum(one.log_probability for one in scores) / n) == pytest.approx(whole, rel=1e-5)


def test_texts_are_split_by_the_tokenizer_and_unknown_words_are_counted(model):
    (one,) = spacy_elmo.score(["The bank  didn't."], model)
    assert one.words == ["The", "bank", "did", "n't", "."]
    assert one.unknown == 2
    nlp = spacy.blank("en")
    of_words = [["The", "bank", "did", "n't", "."], nlp("The bank didn't."), nlp("Oh The bank didn't.")[1:]]
    assert [other.perplexity for other in spacy_elmo.score(of_words, model)] == [pytest.approx(one.perplexity)] * 3
    assert spacy_elmo.score(["didn't"], model, lang="xx")[0].words == ["didn't"]


def test_the_softmax_may_lie_elsewhere(model, apart, data):
    expected = [one.perplexity for one in spacy_elmo.score(TEXTS, model)]
    assert [
        one.perplexity for one in spacy_elmo.score(TEXTS, str(data / "tiny_2l_skip"), softmax=str(apart))
    ] == expected


def test_nothing_is_nothing(model):
    assert spacy_elmo.score([], model) == []


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", r"score\(\[text\], model\)"),
        (["a", math.nan], r"texts\[1\] is nan"),
        ([["a", None]], r"texts\[0\] is \['a', None\]"),
        ([["a"], 3], r"texts\[1\] is 3"),
    ],
)
def test_what_is_no_text_is_named(model, texts, message):
    with pytest.raises(ElmoError, match=message):
        spacy_elmo.score(texts, model)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("vocab.txt", r"it has no vocab\.txt"),
        ("softmax.hdf5", r"softmax\.hdf5: no such file"),
        (None, "no such folder"),
    ],
)
def test_what_the_folder_lacks_is_named(apart, data, tmp_path, missing, message):
    folder = tmp_path / "softmax"
    if missing:
        folder.mkdir()
        for path in apart.iterdir():
            if path.name != missing:
                (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ElmoError, match=message):
        spacy_elmo.score(["a"], str(data / "tiny_2l_skip"), softmax=str(folder))


def test_a_softmax_of_another_width_is_refused(apart, tmp_path):
    with pytest.raises(ElmoError, match="shape"):
        spacy_elmo.score(["a"], formats.BUNDLED, softmax=str(apart))


def test_the_bundled_model_says_where_its_softmax_is():
    with pytest.raises(ElmoError, match=r"ships without its softmax.*--softmax training/en_elmo_sm/state"):
        spacy_elmo.score(["a"], formats.BUNDLED)


def test_losses_are_finite_for_a_sentence_of_no_words(model):
    (one,) = spacy_elmo.score([[]], model)
    assert torch.tensor(one.perplexity).isfinite()
