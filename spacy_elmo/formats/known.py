"""The public ELMo models by name: where their files are, what is known about them, and where a download goes.

Addresses come from the authors or from the named source. None is guessed. A size, SHA-256 or licence is given only
if it is certain.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacy_elmo.errors import ElmoError
from spacy_elmo.support.files import at_home
from spacy_elmo.support.paths import place_of

CACHE = "SPACY_ELMO_CACHE"  # environment variable: where downloads go


@dataclass(frozen=True)
class KnownFile:
    """A file to download. size: in bytes. size and sha256 are None if unknown."""

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class KnownModel:
    """A public model. Each of these is None if unknown.

    language: ISO 639-1 code, or ISO 639-3 if there is none.
    license: as its authors state it.
    source: the document that gives the addresses.
    """

    name: str
    language: str | None
    description: str
    files: tuple[KnownFile, ...]
    license: str | None = None
    source: str | None = None

    @property
    def path(self) -> Path:
        """What to load after the download: a directory, or the archive in it."""
        directory = cache_directory() / self.name
        return directory / self.files[0].name if len(self.files) == 1 else directory

    @property
    def is_downloaded(self) -> bool:
        """Whether all files of the model are there."""
        directory = cache_directory() / self.name
        return all((directory / file.name).is_file() for file in self.files)

    def card(self) -> dict[str, Any]:
        """Return facts to add to the model card."""
        facts = {key: getattr(self, key) for key in ("name", "language", "description", "license", "source")}
        return {key: value for key, value in facts.items() if value is not None}

    def serves(self, language: str) -> bool:
        """Whether the model is for text in that language."""
        return self.language is not None and is_same_language(self.language, language)


def is_same_language(one: str, other: str) -> bool:
    """Whether two codes mean the same language. `no` (Norwegian) includes both Bokmål (nb) and Nynorsk (nn)."""
    pair = {one, other}
    return len(pair) == 1 or pair in ({"no", "nb"}, {"no", "nn"})


def find(name: str) -> KnownModel | None:
    """Return the model with this name, which may be Flair's (`flair:small`); None if there is none."""
    return KNOWN.get(ALIASES.get(name, name))


def find_loosely(name: str) -> KnownModel | None:
    """Find a model like `find`, for a command whose arguments are always model names.

    It also accepts Flair's names without the prefix (`small`), and NLPL numbers as in simple_elmo (`218`, `218.zip`).
    """
    return find(name) or find(f"flair:{name}") or find(f"nlpl-{name.removesuffix('.zip')}")


def cache_directory() -> Path:
    """Return the directory for downloads: SPACY_ELMO_CACHE, or else your cache directory.

    Raises:
        ElmoError: pooch, which finds your cache directory, is not installed; or SPACY_ELMO_CACHE cannot be a path.
    """
    if chosen := os.environ.get(CACHE):
        return place_of(at_home(chosen), CACHE)
    try:
        import pooch
    except ImportError:
        raise ElmoError(f"downloads need pooch: pip install pooch (or set {CACHE} to their directory)") from None
    return Path(pooch.os_cache("spacy-elmo"))


# Where the files are.
_ALLENNLP = "https://allennlp.s3.amazonaws.com/models/elmo/"
_S3 = "https://s3-us-west-2.amazonaws.com/allennlp/models/"  # the same bucket, as other sources write it
_FLAIR_PT = f"{_S3}elmo/contributed/pt/elmo_pt_"
_JAPANESE = "https://exawizardsallenlp.blob.core.windows.net/data/"
_GERMAN = "https://github.com/t-systems-on-site-services-gmbh/german-elmo-model/releases/download/files_1/"
_BASQUE = "https://schweter.eu/cloud/eu-elmo/"
_SLOVENIAN = "https://www.clarin.si/repository/xmlui/bitstream/handle/11356/1277/slovenian-elmo.tar.gz"
_SIMPLIFIED_CHINESE = "http://39.96.43.154/zhs.model.tar.bz2"
_NLPL = "http://vectors.nlpl.eu/repository/"

# AllenNLP's models: folder names and descriptions.
_SMALL, _MEDIUM, _ORIGINAL = (
    "2x1024_128_2048cnn_1xhighway",
    "2x2048_256_2048cnn_1xhighway",
    "2x4096_512_2048cnn_2xhighway",
)
_SMALL_SHA256 = "747ba97abce8a5f446558369e10bb0f7931437a46867476fdd156f5d7f576229"
_BILLION = "1 Billion Word Benchmark"
_WEB = "LSTM 4096/512, Wikipedia and news, 5.5 billion tokens"
_FREE = "no restrictions imposed (allenai/allennlp#1462)"

# The ELMoForManyLangs languages, in the order of the NLPL numbers, from 136.
_MANY_LANGUAGES = (
    "ar Arabic, bg Bulgarian, ca Catalan, cs Czech, cu Old Church Slavonic, da Danish, de German, el Greek, "
    "en English, es Spanish, et Estonian, eu Basque, fa Persian, fi Finnish, fr French, ga Irish, gl Galician, "
    "grc Ancient Greek, he Hebrew, hi Hindi, hr Croatian, hu Hungarian, id Indonesian, it Italian, ja Japanese, "
    "ko Korean, la Latin, lv Latvian, nl Dutch, nb Norwegian Bokmål, nn Norwegian Nynorsk, pl Polish, "
    "pt Portuguese, ro Romanian, ru Russian, sk Slovak, sl Slovene, sv Swedish, tr Turkish, ug Uyghur, "
    "uk Ukrainian, ur Urdu, vi Vietnamese, zh Chinese in traditional characters"
)

_Files = tuple[KnownFile, ...]
_Row = tuple[str, str | None, str, _Files]  # name, language, description, files


def _languages() -> list[list[str]]:
    """Code and name of each language."""
    return [language.split(" ", 1) for language in _MANY_LANGUAGES.split(", ")]


def _published(source: str, license: str | None, *rows: _Row) -> list[KnownModel]:
    return [KnownModel(*row, license, source) for row in rows]


def _pair(options: str, weights: str, size: int | None = None, sha256: str | None = None) -> _Files:
    return KnownFile("options.json", options), KnownFile("weights.hdf5", weights, size, sha256)


def _in_folder(url: str) -> _Files:
    return _pair(f"{url}options.json", f"{url}weights.hdf5")


def _allennlp(folder: str, size: int | None = None, sha256: str | None = None) -> _Files:
    start = f"{_ALLENNLP}{folder}/elmo_{folder}_"
    return _pair(f"{start}options.json", f"{start}weights.hdf5", size, sha256)


def _contributed(options: str, weights: str) -> _Files:
    return _pair(f"{_ALLENNLP}contributed/{options}", f"{_ALLENNLP}contributed/{weights}")


def _crosslingual(language: str) -> _Files:
    return _pair(f"{_S3}multilingual_elmo/options262.json", f"{_S3}multilingual_elmo/{language}_weights.hdf5")


def _with_softmax(size: str) -> str:
    return f"checkpoint of allennlp-{size}, with softmax"


def _checkpoint(folder: str, step: int) -> _Files:
    parts = (f"model.ckpt-{step}.{part}" for part in ("index", "meta", "data-00000-of-00001"))
    files = (KnownFile(name, f"{_S3}elmo/{folder}/{name}") for name in ("options.json", *parts))
    return *files, KnownFile("vocab.txt", f"{_S3}elmo/vocab-2016-09-10.txt")


def _archive(url: str) -> _Files:
    return (KnownFile(url.rpartition("/")[2], url),)


def _deeppavlov(name: str) -> _Files:
    return _archive(f"http://files.deeppavlov.ai/deeppavlov_data/elmo_{name}.tar.gz")


def _nlpl(number: int, language: str | None, description: str) -> _Row:
    return f"nlpl-{number}", language, description, _archive(f"{_NLPL}20/{number}.zip")


_MODELS = (
    *_published(
        "allennlp.org/elmo",
        _FREE,
        ("allennlp-small", "en", f"LSTM 1024/128, {_BILLION}", _allennlp(_SMALL, 54_402_456, _SMALL_SHA256)),
        ("allennlp-medium", "en", f"LSTM 2048/256, {_BILLION}", _allennlp(_MEDIUM)),
        ("allennlp-original", "en", f"LSTM 4096/512, {_BILLION}", _allennlp(_ORIGINAL, 374_434_792)),
        ("allennlp-original-5.5b", "en", _WEB, _allennlp(f"{_ORIGINAL}_5.5B")),
    ),
    *_published(
        "allenai/bilm-tf README, #105, #198",
        _FREE,
        ("allennlp-small-checkpoint", "en", _with_softmax("small"), _checkpoint(f"{_SMALL}/tf_checkpoint", 1501260)),
        ("allennlp-medium-checkpoint", "en", _with_softmax("medium"), _checkpoint(f"{_MEDIUM}/tf_checkpoint", 1501260)),
        (
            "allennlp-original-checkpoint",
            "en",
            _with_softmax("original"),
            _checkpoint(f"{_ORIGINAL}_tf_checkpoint", 935588),
        ),
    ),
    *_published(
        "allennlp.org/elmo",
        None,
        (
            "allennlp-pubmed",
            "en",
            "LSTM 4096/512, PubMed",
            _contributed(f"pubmed/elmo_{_ORIGINAL}_options.json", f"pubmed/elmo_{_ORIGINAL}_weights_PubMed_only.hdf5"),
        ),
        (
            "allennlp-portuguese",
            "pt",
            "Wikipedia",
            _contributed("pt/wikipedia/options.json", "pt/wikipedia/elmo_pt_weights.hdf5"),
        ),
        (
            "allennlp-portuguese-brwac",
            "pt",
            "brWaC",
            _contributed("pt/brwac/options.json", "pt/brwac/elmo_pt_weights_dgx1.hdf5"),
        ),
    ),
    *_published(
        "flairNLP/flair, ELMoEmbeddings",
        None,
        (
            "flair-portuguese",
            "pt",
            "what Flair calls pt",
            _pair(f"{_FLAIR_PT}options.json", f"{_FLAIR_PT}weights.hdf5"),
        ),
    ),
    *_published(
        "allenai/allennlp-website#117",
        None,
        ("allennlp-japanese", "ja", "ExaWizards (Bataa and Wu 2019)", _in_folder(_JAPANESE)),
    ),
    *_published(
        "t-systems-on-site-services-gmbh/german-elmo-model#2",
        "BSD-2-Clause",
        ("german-tsystems", "de", "Wikipedia (May, T-Systems on site services)", _in_folder(_GERMAN)),
    ),
    *_published(
        "stefan-it/plur README",
        None,
        ("basque-plur", "eu", "Wikipedia, OPUS, Leipzig Corpora Collection (Schweter)", _in_folder(_BASQUE)),
    ),
    *_published(
        "CLARIN.SI 11356/1277",
        None,
        ("embeddia-slovenian", "sl", "EMBEDDIA (Ulčar and Robnik-Šikonja 2020)", _archive(_SLOVENIAN)),
    ),
    *_published(
        "deeppavlov/DeepPavlov docs/features/pretrained_vectors.rst",
        "Apache-2.0",
        ("deeppavlov-wiki", "ru", "TF-Hub module, Wikipedia", _deeppavlov("ru-wiki_600k_steps")),
        ("deeppavlov-news", "ru", "TF-Hub module, WMT news", _deeppavlov("ru-news_wmt11-16_1.5M_steps")),
        ("deeppavlov-twitter", "ru", "TF-Hub module, Twitter", _deeppavlov("ru-twitter_2013-01_2018-04_600k_steps")),
    ),
    *_published(
        "deeppavlov/DeepPavlov",
        None,
        (
            "deeppavlov-news-simple",
            "ru",
            "TF-Hub module, WMT news, reduced vocabulary",
            _deeppavlov("news_wmt11-16-simple_reduce_vocab"),
        ),
    ),
    *_published(
        "allenai/allennlp#2628",
        None,
        *(
            (f"crosslingual-{language}", language, "Wikipedia (Schuster et al. 2019)", _crosslingual(language))
            for language in ("de", "en", "es", "fr", "it", "pt", "sv")
        ),
    ),
    *_published(
        "HIT-SCIR/ELMoForManyLangs README",
        "MIT (HIT-SCIR/ELMoForManyLangs#64)",
        *(
            (f"nlpl-{number}", code, f"ELMoForManyLangs, {name}", _archive(f"{_NLPL}11/{number}.zip"))
            for number, (code, name) in enumerate(_languages(), start=136)
        ),
        (
            "elmoformanylangs-zhs",
            "zh",
            "ELMoForManyLangs, Chinese in simplified characters",
            _archive(_SIMPLIFIED_CHINESE),
        ),
    ),
    *_published(
        "vectors.nlpl.eu/repository",
        None,
        _nlpl(195, "ru", "Russian National Corpus and Wikipedia, tokens"),
        _nlpl(196, "ru", "Russian National Corpus and Wikipedia, lemmas"),
        _nlpl(199, "ru", "Taiga, lemmas, LSTM 2048"),
        _nlpl(201, "de", "as used for SemEval-2020 task 1"),
        _nlpl(202, "sv", "as used for SemEval-2020 task 1"),
        _nlpl(203, "la", "as used for SemEval-2020 task 1"),
        _nlpl(209, "en", "as used for SemEval-2020 task 1"),
        _nlpl(210, "no", "Wikipedia 2020, lemmas"),
        _nlpl(211, "no", "Wikipedia 2020, tokens"),
        _nlpl(212, "ru", "Araneum, lemmas, LSTM 2048"),
        _nlpl(217, "no", "NorELMo30: Wikipedia and Norsk Aviskorpus"),
        _nlpl(218, "no", "NorELMo100: Wikipedia and Norsk Aviskorpus"),
    ),
    *_published("proitservices/elmo_embedding_api README", None, _nlpl(219, None, "language and text not known")),
)

KNOWN = {model.name: model for model in _MODELS}

# Other names for known models: Flair's and RusVectores'.
ALIASES = {
    "flair:small": "allennlp-small",
    "flair:medium": "allennlp-medium",
    "flair:original": "allennlp-original",
    "flair:large": "allennlp-original-5.5b",
    "flair:5.5B": "allennlp-original-5.5b",
    "flair:pubmed": "allennlp-pubmed",
    "flair:pt": "flair-portuguese",
    "flair:portuguese": "flair-portuguese",
    "ruwikiruscorpora_tokens_elmo_1024_2019": "nlpl-195",
    "ruwikiruscorpora_lemmas_elmo_1024_2019": "nlpl-196",
    "tayga_lemmas_elmo_2048_2019": "nlpl-199",
    "araneum_lemmas_elmo_2048_2020": "nlpl-212",
}
