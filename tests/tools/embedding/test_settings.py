import pytest

from spacy_elmo.errors import ElmoError
from spacy_elmo.tools.embed import embed_file
from spacy_elmo.tools.embedding.settings import EmbedSettings

WRONG = [
    {"batch_size": 0},
    {"max_batch_tokens": 0},
    {"engine": "fast"},
    {"workers": 0},
    {"gpus_per_worker": -1},
    {"gpus_per_worker": float("nan")},
]


@pytest.mark.parametrize("settings", WRONG, ids=str)
def test_setting_out_of_range_is_an_error_that_names_it(text, model, tmp_path, settings):
    with pytest.raises(ElmoError, match=next(iter(settings))):
        embed_file(text, tmp_path / "out.h5", model=model, **settings)
    with pytest.raises(ElmoError, match=next(iter(settings))):
        EmbedSettings(**settings)


def test_settings_may_be_an_object_keywords_or_both(text, model, tmp_path):
    whole = EmbedSettings(model=model, layers="top", float16=True)
    embed_file(text, tmp_path / "object.npz", whole)
    embed_file(text, tmp_path / "keywords.npz", model=model, layers="top", float16=True)
    embed_file(text, tmp_path / "both.npz", EmbedSettings(model=model, layers="top"), float16=True)
    assert (tmp_path / "object.npz").read_bytes() == (tmp_path / "keywords.npz").read_bytes()
    assert (tmp_path / "object.npz").read_bytes() == (tmp_path / "both.npz").read_bytes()


def test_a_keyword_that_is_no_setting_is_refused(text, tmp_path):
    with pytest.raises(TypeError, match="layer"):
        embed_file(text, tmp_path / "out.h5", layer="top")
