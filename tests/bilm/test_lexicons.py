"""Words and characters of models of ELMoForManyLangs as ids."""

import pytest

from spacy_elmo import ElmoError
from spacy_elmo.bilm.lexicons import CharacterLexicon, Lexicons, WordLexicon
from spacy_elmo.bilm.options import CharCNNOptions, TokenEmbedderOptions

CHARACTERS = ["a", "ä", "😀", "<bos>", "<eos>", "<oov>", "<pad>", "<bow>", "<eow>"]
BOS, EOS, OOV, BOW, EOW = 3, 4, 5, 7, 8


@pytest.fixture
def characters():
    return CharacterLexicon(CHARACTERS)


def test_a_token_lies_between_the_marker_of_its_end_and_that_of_its_begin(characters):
    assert characters.token_ids("aä", 50) == [EOW, 0, 1, BOW]
    assert characters.token_ids("", 50) == [EOW, BOW]


def test_characters_are_code_points(characters):
    assert characters.token_ids("😀\u0308\ud800", 50) == [EOW, 2, OOV, OOV, BOW]


def test_a_long_token_is_cut_to_its_first_code_points(characters):
    assert characters.token_ids("ä😀aaaaaaa", 5) == [EOW, 1, 2, 0, BOW]


@pytest.mark.parametrize(("token", "border"), [("<bos>", BOS), ("<eos>", EOS), ("<bos>yond", BOS)])
def test_borders_in_the_text_are_borders_also_where_the_cut_makes_them(characters, token, border):
    assert characters.token_ids(token, 7) == [EOW, border, BOW]


def test_the_borders_of_other_elmos_are_text(characters):
    assert characters.token_ids("<S>", 50) == [EOW, OOV, OOV, OOV, BOW]


def test_words_are_known_by_their_exact_string():
    words = WordLexicon(["<oov>", "<pad>", "Haus"])
    assert [words.id(word) for word in ("Haus", "haus", "Haus ", "")] == [2, 0, 0, 0]
    assert words.knows("Haus")
    assert not words.knows("haus")


@pytest.mark.parametrize("missing", ["<bos>", "<eos>", "<oov>", "<pad>", "<bow>", "<eow>"])
def test_a_lexicon_without_a_marker_is_refused(missing):
    with pytest.raises(ElmoError, match=f"lexicon of characters: {missing} missing"):
        CharacterLexicon([entry for entry in CHARACTERS if entry != missing])


def test_an_entry_that_is_there_twice_is_refused():
    with pytest.raises(ElmoError, match="lexicon of words: 'x' is repeated"):
        Lexicons(["<oov>", "<pad>", "x", "x"], None).check()


def test_only_what_the_options_ask_for_is_kept():
    both = Lexicons(["<oov>", "<pad>"], CHARACTERS)
    cnn = CharCNNOptions(((1, 2),), 3)
    assert both.for_options(TokenEmbedderOptions(4, None, None)) == Lexicons(both.words, None)
    assert both.for_options(TokenEmbedderOptions(0, cnn, 50)) == Lexicons(None, both.characters)
    for options, missing in ((TokenEmbedderOptions(4, cnn, 50), Lexicons(None, CHARACTERS)),):
        with pytest.raises(ElmoError, match="lexicon of words, but it is missing"):
            missing.for_options(options)


def test_a_chinese_model_without_full_width_forms_says_so():
    markers = ["<oov>", "<pad>"]
    (hint,) = Lexicons(None, [*"今天天气很好一二三四。", *markers]).hints()
    assert "full-width" in hint
    assert Lexicons(None, [*"今天天气很好一二三四，", *markers]).hints() == []
    assert Lexicons(None, [*"Wort und Satz", *markers]).hints() == []
    assert Lexicons([*"今天天气很好一二三四", *markers], None).hints() == [hint]


def test_a_model_of_lower_case_says_so():
    (hint,) = Lexicons(["<oov>", "zwölf", "boxkämpfer", "jagen", "viktor", "quer", "über"], None).hints()
    assert "lower case" in hint
