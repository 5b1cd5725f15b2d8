"""The public ELMo models by name: where their files are, what is known of them, where a download goes.

Addresses are those that the authors published (allennlp.org/elmo, the NLPL repository and its wiki, the authors'
repositories). A size, SHA-256 or licence is given only where it is certain.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacy_elmo.errors import ElmoError

CACHE = "SPACY_ELMO_CACHE"  # environment variable: where downloads go


@dataclass(frozen=True)
class KnownFile:
    """A file to download. size in bytes; size and sha256 None where not known."""

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class KnownModel:
    """A public model. language: ISO 639-1 code; license: as its authors state it, None where they do not."""

    name: str
    language: str
    description: str
    files: tuple[KnownFile, ...]
    license: str | None = None

    @property
    def path(self) -> Path:
        """What to load once it is downloaded: a directory, or the archive in it."""
        directory = cache_directory() / self.name
        return directory / self.files[0].name if len(self.files) == 1 else directory

    @property
    def is_downloaded(self) -> bool:
        """Whether all its files are there."""
        directory = cache_directory() / self.name
        return all((directory / file.name).is_file() for file in self.files)

    def card(self) -> dict[str, Any]:
        """What a model card says of it, in addition to its own."""
        facts = {"name": self.name, "language": self.language, "description": self.description, "license": self.license}
        return {key: value for key, value in facts.items() if value is not None}


def cache_directory() -> Path:
    """Where downloads are: what SPACY_ELMO_CACHE says, else the user's cache directory.

    Raises:
        ElmoError: pooch, which knows the latter, is not installed.
    """
    if chosen := os.environ.get(CACHE):
        return Path(chosen).expanduser()
    try:
        import pooch
    except ImportError:
        raise ElmoError(f"downloads need pooch: pip install pooch (or say in {CACHE} where they are)") from None
    return Path(pooch.os_cache("spacy-elmo"))


_ALLENNLP = "https://allennlp.s3.amazonaws.com/models/elmo/"
_FREE = "no restrictions imposed (allenai/allennlp#1462)"


def _pair(options: str, weights: str, size: int | None = None, sha256: str | None = None) -> tuple[KnownFile, ...]:
    return KnownFile("options.json", options), KnownFile("weights.hdf5", weights, size, sha256)


def _allennlp(folder: str, size: int | None = None, sha256: str | None = None) -> tuple[KnownFile, ...]:
    start = f"{_ALLENNLP}{folder}/elmo_{folder}_"
    return _pair(f"{start}options.json", f"{start}weights.hdf5", size, sha256)


def _contributed(options: str, weights: str) -> tuple[KnownFile, ...]:
    return _pair(f"{_ALLENNLP}contributed/{options}", f"{_ALLENNLP}contributed/{weights}")


def _nlpl(number: int, language: str, description: str) -> KnownModel:
    file = KnownFile(f"{number}.zip", f"http://vectors.nlpl.eu/repository/20/{number}.zip")
    return KnownModel(f"nlpl-{number}", language, description, (file,))


def _by_name(models: Iterable[KnownModel]) -> dict[str, KnownModel]:
    return {model.name: model for model in models}


_SMALL_SHA256 = "747ba97abce8a5f446558369e10bb0f7931437a46867476fdd156f5d7f576229"
_GERMAN = "https://github.com/t-systems-on-site-services-gmbh/german-elmo-model/releases/download/files_1/"

KNOWN = _by_name(
    [
        KnownModel(
            "allennlp-small",
            "en",
            "LSTM 1024/128, 1 Billion Word Benchmark",
            _allennlp("2x1024_128_2048cnn_1xhighway", 54_402_456, _SMALL_SHA256),
            _FREE,
        ),
        KnownModel(
            "allennlp-medium",
            "en",
            "LSTM 2048/256, 1 Billion Word Benchmark",
            _allennlp("2x2048_256_2048cnn_1xhighway"),
            _FREE,
        ),
        KnownModel(
            "allennlp-original",
            "en",
            "LSTM 4096/512, 1 Billion Word Benchmark",
            _allennlp("2x4096_512_2048cnn_2xhighway", 374_434_792),
            _FREE,
        ),
        KnownModel(
            "allennlp-original-5.5b",
            "en",
            "LSTM 4096/512, Wikipedia and news, 5.5 billion tokens",
            _allennlp("2x4096_512_2048cnn_2xhighway_5.5B"),
            _FREE,
        ),
        KnownModel(
            "allennlp-pubmed",
            "en",
            "LSTM 4096/512, PubMed",
            _contributed(
                "pubmed/elmo_2x4096_512_2048cnn_2xhighway_options.json",
                "pubmed/elmo_2x4096_512_2048cnn_2xhighway_weights_PubMed_only.hdf5",
            ),
        ),
        KnownModel(
            "allennlp-portuguese",
            "pt",
            "Wikipedia",
            _contributed("pt/wikipedia/options.json", "pt/wikipedia/elmo_pt_weights.hdf5"),
        ),
        KnownModel(
            "allennlp-portuguese-brwac",
            "pt",
            "brWaC",
            _contributed("pt/brwac/options.json", "pt/brwac/elmo_pt_weights_dgx1.hdf5"),
        ),
        KnownModel(
            "allennlp-japanese",
            "ja",
            "ExaWizards (Bataa and Wu 2019)",
            _pair(
                "https://exawizardsallenlp.blob.core.windows.net/data/options.json",
                "https://exawizardsallenlp.blob.core.windows.net/data/weights.hdf5",
            ),
        ),
        KnownModel(
            "german-tsystems",
            "de",
            "Wikipedia (May, T-Systems on site services)",
            _pair(f"{_GERMAN}options.json", f"{_GERMAN}weights.hdf5"),
            "BSD-2-Clause",
        ),
        _nlpl(195, "ru", "Russian National Corpus and Wikipedia, tokens"),
        _nlpl(196, "ru", "Russian National Corpus and Wikipedia, lemmas"),
        _nlpl(199, "ru", "Taiga, lemmas, LSTM 2048"),
        _nlpl(201, "de", "as used for SemEval-2020 task 1"),
        _nlpl(202, "sv", "as used for SemEval-2020 task 1"),
        _nlpl(203, "la", "as used for SemEval-2020 task 1"),
        _nlpl(209, "en", "as used for SemEval-2020 task 1"),
        _nlpl(210, "no", "Wikipedia 2020, lemmas"),
        _nlpl(211, "no", "Wikipedia 2020, tokens"),
        _nlpl(217, "no", "NorELMo30: Wikipedia and Norsk Aviskorpus"),
        _nlpl(218, "no", "NorELMo100: Wikipedia and Norsk Aviskorpus"),
    ]
)
