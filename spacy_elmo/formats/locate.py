"""A name or path in, the files of a model out: a bundled or downloaded model, a directory, an archive, a `.hdf5`."""

import json
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.errors import OptionsError, WeightsError
from spacy_elmo.formats import bilm_hdf5, foreign
from spacy_elmo.formats.archive import Archive, File, Member, is_archive, size_of
from spacy_elmo.formats.known import KNOWN

MODELS = Path(__file__).resolve().parent.parent / "models"
BUNDLED = "en_elmo_sm"

_MOST_TEXT = 2**28  # bytes of a vocabulary, unpacked

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class ModelFiles:
    """Where the parts of a model are. `format` is a name to show; `facts` what is known beside its model card."""

    weights: File
    options: File
    name: str
    format: str = "bilm-tf HDF5"
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weights_bytes(self) -> int:
        """Size of the weights file."""
        return size_of(self.weights)

    def read_options(self) -> BiLMOptions:
        """Read the architecture.

        Raises:
            OptionsError: see `BiLMOptions.from_file`.
        """
        if isinstance(self.options, Path):
            return BiLMOptions.from_file(self.options)
        return BiLMOptions.from_json(self.options.read_bytes(), str(self.options))

    def card(self) -> dict[str, Any]:
        """Content of the model card beside the weights, and the facts that it does not state."""
        file = self.weights.with_name("model_card.json")
        if not file.is_file():
            return dict(self.facts)
        content = file.read_bytes()
        try:
            card = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise WeightsError(f"{file}: the model card is not valid JSON ({error})") from None
        if not isinstance(card, dict):
            raise WeightsError(f"{file}: the model card is not a JSON object")
        return {**self.facts, **card}

    def vocabulary(self) -> list[str] | None:
        """Words of the `vocab.txt` or `vocab.txt.gz` beside the weights, one a line; None where there is none."""
        plain, packed = (self.weights.with_name(name) for name in ("vocab.txt", "vocab.txt.gz"))
        if plain.is_file():
            file, content = plain, plain.read_bytes()
        elif packed.is_file():
            file, content = packed, _gunzip(packed)
        else:
            return None
        try:
            lines = content.decode("utf8").split("\n")
        except UnicodeDecodeError as error:
            raise WeightsError(f"{file}: the vocabulary is not UTF-8 ({error})") from None
        return [line.strip() for line in (lines if lines[-1] else lines[:-1])]  # stripped, as bilm-tf does


def _gunzip(file: File) -> bytes:
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(file.read_bytes(), _MOST_TEXT)
    except zlib.error as error:
        raise WeightsError(f"{file}: not gzip, or damaged ({error})") from None
    if not unpacker.eof:
        raise WeightsError(f"{file}: cut off, or more than {_MOST_TEXT:,} bytes unpacked")
    return content


def load(path: PathLike, options: PathLike | None = None) -> BiLM:
    """Load a biLM, in evaluation mode on the CPU.

    path: the name of a bundled or downloaded model (`en_elmo_sm`, `allennlp-small`), a directory with an options.json
        and one weights file, a zip archive of such files, or a `.hdf5` file with its options beside it.
    options: the options.json, where it lies elsewhere.

    Raises:
        OptionsError, WeightsError: see `locate`, `BiLMOptions.from_file` and `bilm_hdf5.read`.
    """
    files = locate(path, options)
    parsed = files.read_options()
    vocabulary = files.vocabulary() if parsed.char_cnn is None else None
    if parsed.char_cnn is None and vocabulary is None:
        raise WeightsError(f"{files.weights}: a biLM without char_cnn reads words and needs a vocab.txt beside it")
    return bilm_hdf5.read(files.weights, parsed, vocabulary, files.card())


def locate(path: PathLike, options: PathLike | None = None) -> ModelFiles:
    """Find weights and options of a model. Nothing is downloaded.

    Raises:
        WeightsError: there is no such model, it is not downloaded yet, its format is not read, or a directory or
            archive holds several weights files.
        OptionsError: no options file is found beside the weights.
    """
    bundled = sorted(model.parent.name for model in MODELS.glob("*/weights.hdf5"))
    expected = (
        f"expected a bundled name ({', '.join(bundled)}), a downloaded one (python -m spacy elmo download --list), a "
        "directory with options.json and weights.hdf5, a zip archive of it, or a .hdf5 file"
    )
    if not os.fspath(path):
        raise WeightsError(f"the name or path of the weights is empty; {expected}")
    known = KNOWN.get(path) if isinstance(path, str) else None
    if known and not known.is_downloaded:
        raise WeightsError(
            f"{path} is not downloaded: python -m spacy elmo download {path} (a directory of that name: ./{path})"
        )
    root = known.path if known else MODELS / path if path in bundled else Path(path)
    kind = "bilm-tf HDF5"
    if _exists(root.is_dir):
        weights = _weights_among(sorted(root.iterdir()), root)
    elif not _exists(root.is_file):
        if root.name and _exists(Path(f"{root}.index").is_file):  # a checkpoint is named by the start of its files
            _refuse_foreign([f"{root.name}.index"], root)
        if re.match(r"\w{2,}:/", str(path)):
            raise WeightsError(f"{path}: weights are read from files; download it and its options, and name the file")
        raise WeightsError(f"{path}: no such weights; {expected}")
    elif is_archive(root):
        weights, kind = _weights_among(_members(root), root), "bilm-tf HDF5 in a zip archive"
    else:
        if not h5py.is_hdf5(root):
            _refuse_foreign([root.name], root)
        weights = root
    found = Path(options) if options is not None else _options_of(weights)
    name = known.name if known else root.name or str(root)
    return ModelFiles(weights, found, name, kind, known.card() if known else {})


def _exists(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a name too long to be one
        return False


def _members(path: Path) -> list[Member]:
    """The files of an archive that lie beside its weights: at its top, or in one folder of it."""
    members = [member for member in Archive(path).members() if len(member.inner.parts) <= 2]
    folders = {member.inner.parent for member in members if member.name.endswith(".hdf5")}
    if len(folders) > 1:
        seen = ", ".join(str(folder) for folder in sorted(folders))
        raise WeightsError(f"{path}: weights in several folders ({seen}); unpack it and name one of them")
    return [member for member in members if not folders or member.inner.parent in folders]


def _weights_among(files: Sequence[File], where: Path) -> File:
    found = [file for file in files if file.name.endswith(".hdf5") and not file.name.startswith("softmax")]
    for file in found:
        if file.name == "weights.hdf5" and file.is_file():
            return file
    if len(found) == 1:
        return found[0]
    if not found:
        _refuse_foreign([file.name for file in files], where)
    seen = ", ".join(file.name for file in found) or "none"
    raise WeightsError(f"{where}: expected one weights file, weights.hdf5 or another .hdf5; found {seen}")


def _refuse_foreign(names: Sequence[str], where: Path) -> None:
    if what := foreign.explain(names):
        raise WeightsError(f"{where}: {what}")


def _options_of(weights: File) -> File:
    """options.json, the file named like the weights (AllenNLP), or the only one with options in its name."""
    named = weights.with_name(weights.stem.replace("weights", "options") + ".json")
    if "weights" in weights.stem and named.is_file():
        return named
    usual = weights.with_name("options.json")
    if usual.is_file():
        return usual
    others = [file for file in _beside(weights) if "options" in file.name and file.name.endswith(".json")]
    if len(others) != 1:
        raise OptionsError(f"{weights}: no options.json beside it; put the options file of these weights there")
    return others[0]


def _beside(file: File) -> Sequence[File]:
    if isinstance(file, Path):
        return sorted(file.parent.iterdir())
    return [member for member in file.archive.members() if member.inner.parent == file.inner.parent]
