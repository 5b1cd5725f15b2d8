import io
import random
import re

import numpy as np
import pytest
import spacy
from matplotlib import image

from spacy_elmo import formats
from spacy_elmo.errors import ElmoError
from spacy_elmo.tools import pictures
from spacy_elmo.tools import visualize as module
from spacy_elmo.tools.layers import pick
from spacy_elmo.tools.pictures import Picture
from spacy_elmo.tools.projection import project
from spacy_elmo.tools.visualize import visualize

SENTENCES = ["the bank lent money", "a bank of the river", "he saw the bank", "the river and the bank of it"]


@pytest.fixture(scope="module")
def model(data):
    return str(data / "tiny_2l_skip")


@pytest.fixture
def draw(tmp_path, model):
    """Return a function that draws a text. It returns the path of the picture without suffix, and what was drawn."""

    def run(lines, name="picture", **settings):
        (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
        return visualize(str(tmp_path / "text.txt"), str(tmp_path / name), model, **settings)

    return run


@pytest.fixture
def drawn(monkeypatch):
    """Collect what pictures are asked to draw."""
    seen = []

    class Seen(Picture):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            seen.append(self)

    monkeypatch.setattr(module.pictures, "Picture", Seen)
    return seen


def labelled(sentences=SENTENCES, labels=("money", "water")):
    return [f"{labels[number % len(labels)]}\t{sentence}" for number, sentence in enumerate(sentences)]


def test_both_files_of_a_name_without_suffix(draw, tmp_path):
    counts = draw(labelled(), words=["bank"], color="label")
    assert counts == {"money": 2, "water": 2}
    picture = image.imread(io.BytesIO((tmp_path / "picture.png").read_bytes()), format="png")
    assert picture.shape[:2] == (819, 1170)
    for color in ("#0072B2", "#D55E00"):
        blended = [0.8 * int(color[n : n + 2], 16) / 255 + 0.2 for n in (1, 3, 5)]
        assert (np.abs(picture[..., :3] - blended).max(axis=2) < 0.01).sum() > 100, color
    page = (tmp_path / "picture.html").read_text()
    assert "the \\u003cb\\u003ebank\\u003c\\u002fb\\u003e lent money" in page
    for shown in ("money (2)", "water (2)", "component 1 (", "bank by label", "Plotly"):
        assert shown in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    assert '<meta name="viewport" content="width=device-width' in page  # otherwise phones draw it small


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_the_same_picture_each_time(draw, tmp_path, method):
    for name in ("one", "two"):
        draw(SENTENCES, name, method=method, max_points=12)
    for suffix in ("png", "html"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
    draw(SENTENCES, "other.html", method=method, max_points=12, seed=1)
    assert (tmp_path / "one.html").read_bytes() != (tmp_path / "other.html").read_bytes()


def test_principal_components_of_the_words_vectors_are_drawn(draw, drawn, model):
    draw(SENTENCES, "picture.html", words=["bank", "river"], layers="top")
    bilm = formats.load(model)
    vectors = np.concatenate(
        [
            pick(bilm.encode([sentence.split()])[0], "top")[[word in ("bank", "river") for word in sentence.split()]]
            for sentence in SENTENCES
        ]
    ).astype(np.float64)
    u, s, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    expected = u[:, :2] * s[:2]
    np.testing.assert_allclose(np.abs(drawn[0].places), np.abs(expected), rtol=1e-3, atol=1e-4)
    assert drawn[0].axes[0] == f"component 1 ({s[0] ** 2 / (s**2).sum():.0%} of variance)"
    assert drawn[0].categories == ["bank", "bank", "river", "bank", "river", "bank"]
    assert "top layer" in drawn[0].title


def test_labelled_sentences_are_a_point_each_at_the_mean_of_their_words(draw, drawn, model, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "project", lambda vectors, *rest: asked.append(vectors) or project(vectors, *rest))
    assert draw(labelled(), "picture.html", color="label") == {"money": 2, "water": 2}
    assert drawn[0].positions == [None] * 4
    encoded = formats.load(model).encode([sentence.split() for sentence in SENTENCES])
    np.testing.assert_allclose(asked[0], [pick(one, "average").mean(axis=0) for one in encoded], atol=1e-5)


def test_tagged_text_is_coloured_by_tag(draw):
    lines = ["the\tDET", "bank\tNOUN", "", "a\tDET", "river\tNOUN", "ran\tVERB"]
    assert draw(lines, "picture.html", color="pos") == {"DET": 2, "NOUN": 2, "VERB": 1}


TEXT = ["The bank lent money, and the bank fell!", "A river is not a bank."]


def test_function_words_and_punctuation_are_left_out_unless_asked_for(draw, drawn):
    assert draw(TEXT, "a.html", pipeline="en") == {"bank": 3, "fell": 1, "lent": 1, "money": 1, "river": 1}
    every = draw(TEXT, "b.html", pipeline="en", all_words=True)
    assert (every["the"], every[","], sum(every.values())) == (1, 1, 17)
    assert draw(TEXT, "c.html", pipeline="en", words=["the", "not", "!"]) == {"!": 1, "not": 1, "the": 1}
    assert drawn[0].title.startswith("words: ")


def test_the_function_words_are_those_of_the_bundled_model_s_language(tmp_path):
    (tmp_path / "text.txt").write_text("the bank of the river\nhe saw the bank\n")
    counts = visualize(str(tmp_path / "text.txt"), str(tmp_path / "picture.html"))
    assert counts == {"bank": 2, "river": 1, "saw": 1}


def test_a_pipeline_splits_and_tags_lines(draw, drawn, tmp_path):
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("attribute_ruler")
    ruler.add([[{"IS_PUNCT": True}]], {"POS": "PUNCT"})
    ruler.add([[{"IS_PUNCT": False}]], {"POS": "X"})
    nlp.to_disk(tmp_path / "pipeline")
    settings = {"color": "pos", "pipeline": str(tmp_path / "pipeline")}
    assert draw(["Money!  Lent, by a bank.", "", "A river."], "picture.html", **settings) == {"X": 7, "PUNCT": 4}
    assert list(drawn[0].words[0]) == ["Money", "!", "Lent", ",", "by", "a", "bank", "."]
    assert draw(["x\tMoney!", "y\tA bank.", "y\tRivers"], "b.html", color="label", pipeline="en") == {"y": 2, "x": 1}
    with pytest.raises(ElmoError, match="line 1: the pipeline sets no parts of speech"):
        draw(["Money!"], "c.html", color="pos", pipeline="en")


def test_points_beyond_the_limit_are_chosen_with_the_same_chance(monkeypatch):
    sentences = [module.Sentence([f"w{number}" for number in range(20)])]
    chosen = np.zeros(20)
    for seed in range(400):
        points = module._sample(iter(sentences), module._Wanted(None, "word"), 5, seed)
        positions = [point.position for point in points]
        assert len(points) == 5
        assert positions == sorted(set(positions))
        chosen[positions] += 1
    assert chosen.min() > 60  # of 100 expected; five standard deviations would be 43
    assert chosen.max() < 145


def picture(categories, places=None):
    n = len(categories)
    places = np.random.default_rng(0).normal(size=(n, 2)) if places is None else places
    return Picture("title", ("x", "y"), places, categories, [("a", "b")] * n, [0] * n, "word")


def test_rare_categories_are_folded_into_other():
    categories = [name for number, name in enumerate("abcdefghij") for _ in range(12 - number)]
    random.Random(0).shuffle(categories)
    groups = list(picture(categories)._groups())
    assert [name for name, _, _ in groups] == [
        *(f"{name} ({12 - n})" for n, name in enumerate("abcdefg")),
        "other (12)",
    ]
    assert sorted(point for _, points, _ in groups for point in points) == list(range(len(categories)))
    assert len({style for _, _, style in groups}) == 8
    assert b"other (12)" in picture(categories).html()


def test_what_is_told_is_in_the_order_of_the_legend(draw, drawn):
    counts = draw(["two one three", "ten"])
    assert list(counts) == ["one", "ten", "three", "two"]
    assert [name for name, _, _ in drawn[0]._groups()] == ["one (1)", "ten (1)", "three (1)", "two (1)"]


def test_characters_without_a_glyph_are_one_warning():
    with pytest.warns(UserWarning, match="matplotlib's font lacks some characters") as warned:
        picture(["河岸", "银行", "存款"]).png()
    assert len(warned) == 1


def test_an_unknown_layer_is_found_before_anything_is_embedded(draw, monkeypatch):
    monkeypatch.setattr(module, "_embed", None)
    with pytest.raises(ElmoError, match="from 0 to 2"):
        draw(["a b c"], layers="9")


def test_long_names_of_categories_are_cut():
    (name, _, _), *_ = picture(["x" * 100] * 3)._groups()
    assert name == "x" * 29 + "… (3)"


def test_the_word_itself_is_bold_beside_its_point():
    words = ["On", "that", "day", "the", "bank", "fell", "a", "lot"]
    one = Picture("", ("x", "y"), np.zeros((2, 2)), ["a"] * 2, [words] * 2, [4, None], "word")
    shown = [
        [(text.get_text(), text._text.get_weight()) for text in pictures._line_of_text(one._context(i)).get_children()]
        for i in (0, 1)
    ]
    assert shown[0] == [("day the", "normal"), ("bank", "bold"), ("fell a", "normal")]
    assert shown[1] == [("On that day the bank", "normal")]  # the sentence is the point


def test_contexts_beside_points_hide_neither_points_nor_each_other(monkeypatch):
    shown = []
    monkeypatch.setattr(
        Picture,
        "_write_contexts",
        lambda self, axes, old=Picture._write_contexts: (old(self, axes), shown.append(axes)),
    )
    places = np.random.default_rng(0).normal(size=(30, 2))
    picture(["a"] * 30, places).png()
    (axes,) = shown
    boxes = [text.get_window_extent() for text in axes.artists]
    assert len(boxes) > 15
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    marks = axes.transData.transform(places)
    assert not any(box.contains(*mark) for box in boxes for mark in marks)


def test_markup_and_mathematics_in_the_text_are_shown_as_they_are(draw, tmp_path):
    draw(["<i>x</i>\t</script><script>alert(1)</script> $a", "$y_$z\tb $c$ d", "$y_$z\te"], color="label")
    page = (tmp_path / "picture.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;i&gt;x" in page


@pytest.mark.parametrize(
    ("lines", "settings", "message"),
    [
        (["no tab here"], {"color": "label"}, "line 1: expected label<TAB>sentence"),
        (["a\tb", "c"], {"color": "label"}, "line 2: expected label<TAB>sentence"),
        (["a\tb\tc"], {"color": "pos"}, "line 1: expected word<TAB>tag"),
        (["the bank"], {"color": "pos"}, "--pipeline"),
        (["a bank", "a bank"], {"words": ["bank", "shore"]}, "not in the text: shore"),
        (["a bank", "a bank"], {"words": ["bank"]}, "has 2 points to draw"),
        ([""], {}, "has 0 points to draw"),
        (["a bank"] * 3, {"words": ["bank"]}, "the same vector"),
        (["a b c"], {"layers": "9"}, "from 0 to 2"),
        (["a b c"], {"pipeline": "no_such"}, "no_such: not an installed pipeline"),
    ],
)
def test_text_that_cannot_be_drawn_is_an_error_and_leaves_nothing(draw, tmp_path, lines, settings, message):
    with pytest.raises(ElmoError, match=message):
        draw(lines, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_pictures_that_are_there_are_kept_unless_forced(draw, tmp_path):
    (tmp_path / "picture.html").write_text("mine")
    with pytest.raises(ElmoError, match=r"picture\.html: already exists.*--force"):
        draw(SENTENCES)
    assert not (tmp_path / "picture.png").exists()
    draw(SENTENCES, force=True)
    assert (tmp_path / "picture.html").read_text() != "mine"


@pytest.mark.parametrize(("name", "message"), [("a.pdf", "not .pdf"), ("no/such/a.png", "no such directory")])
def test_other_formats_and_places_are_errors(draw, name, message):
    with pytest.raises(ElmoError, match=message):
        draw(SENTENCES, name)


@pytest.mark.parametrize(
    ("package", "settings", "message"),
    [
        ("matplotlib", {}, r"matplotlib: pip install 'spacy-elmo\[viz\]'"),
        ("plotly", {}, r"plotly: pip install 'spacy-elmo\[viz\]'"),
        ("sklearn", {}, r"sklearn: pip install 'spacy-elmo\[viz\]'"),
        ("umap", {"method": "umap"}, "pip install umap-learn"),
    ],
)
def test_missing_packages_are_named_before_any_work(draw, monkeypatch, package, settings, message):
    find = pictures.importlib.util.find_spec
    monkeypatch.setattr(pictures.importlib.util, "find_spec", lambda name: None if name == package else find(name))
    monkeypatch.setattr(module.formats, "load", None)
    with pytest.raises(ElmoError, match=message):
        draw(SENTENCES, **settings)
