"""Find a model by its name or path. Its parts are read when you first ask for them."""

import os
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, TypeVar

from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.errors import OptionsError, WeightsError
from spacy_elmo.formats import (
    allennlp,
    beside,
    bilm_hdf5,
    bilm_tf,
    elmoformanylangs,
    foreign,
    hugging_face,
    known,
    softmax_hdf5,
)
from spacy_elmo.formats.archive import Archive, is_archive
from spacy_elmo.formats.reader import Find, MixReader, Place, Reader
from spacy_elmo.formats.tensorflow import checkpoint, hub
from spacy_elmo.formats.writing import LAYOUT
from spacy_elmo.support.files import at_home, read_whole, settled, state_of
from spacy_elmo.support.messages import listed
from spacy_elmo.support.paths import path_of

MODELS = Path(__file__).resolve().parent.parent / "models"
BUNDLED = "en_elmo_sm"

# The first format that finds a model opens it.
FORMATS: tuple[Find, ...] = (bilm_tf.find, elmoformanylangs.find, hub.find, checkpoint.find, allennlp.find)

PathLike = str | os.PathLike[str]
T = TypeVar("T")


class OpenedModel:
    """A model that was found. Each part is read when you first ask for it, and then kept.

    name: the model's name if its card has none.
    facts: what is known about the model in addition to its card.
    is_replaced: whether another model has taken its place since. A part read after that could belong to either model,
        so it is an error.
    """

    def __init__(
        self, reader: Reader, name: str, facts: Mapping[str, Any], is_replaced: Callable[[], bool] = lambda: False
    ) -> None:
        self.name = name
        self._reader, self._facts, self._is_replaced = reader, facts, is_replaced
        self._bilm: BiLM | None = None
        self._softmax: Softmax | None = None

    @property
    def format(self) -> str:
        """Name of the format."""
        return self._reader.format

    @property
    def weights_bytes(self) -> int:
        """Size of the weights files."""
        return self._reader.weights_bytes

    @cached_property
    def options(self) -> BiLMOptions:
        """The architecture.

        Raises:
            OptionsError: there are no options, or they are wrong.
        """
        return self._read(self._reader.options)

    @cached_property
    def card(self) -> dict[str, Any]:
        """Content of the model card, plus known facts that the card lacks.

        Raises:
            WeightsError: the card is not a JSON object.
        """
        return {**self._facts, **self._read(self._reader.card)}

    @cached_property
    def vocabulary(self) -> list[str] | None:
        """Words in the order of their ids, as the softmax predicts them; None if the model has none.

        Raises:
            WeightsError: the file is damaged, too long or not UTF-8.
        """
        return self._read(self._reader.vocabulary)

    @cached_property
    def digest(self) -> str:
        """`formats.digest` of the biLM, computed when first asked for."""
        return bilm_hdf5.digest(self.bilm())

    @cached_property
    def mixes(self) -> list[list[float]]:
        """Layer weights of each mix that came with the model, as values for the component's setting `layers`.

        Raises:
            WeightsError: they are damaged.
        """
        return self._read(self._reader.mixes) if isinstance(self._reader, MixReader) else []

    def bilm(self) -> BiLM:
        """Return the biLM, frozen, in evaluation mode on the CPU; the same one each time.

        Raises:
            OptionsError, WeightsError: a part is missing, damaged, hostile, or does not fit the others.
        """
        if self._bilm is None:
            self._bilm = self._read(lambda: self._reader.bilm(self))
        return self._bilm

    def read_options(self) -> BiLMOptions:
        """Return `options`. This is the earlier name."""
        return self.options

    @property
    def has_softmax(self) -> bool:
        """Whether the model can predict words."""
        return self._reader.why_no_softmax() is None

    def softmax(self) -> Softmax:
        """Return the softmax over the vocabulary, frozen, in evaluation mode on the CPU; the same one each time.

        Raises:
            WeightsError: the model has no softmax or no vocabulary, or the softmax is damaged or has a wrong shape.
        """
        if self._softmax is None:
            if (reason := self._reader.why_no_softmax()) is not None:
                raise WeightsError(reason)
            if self.vocabulary is None:
                raise WeightsError(
                    f"{self.name}: it has a softmax but no vocab.txt, so its words are unknown; "
                    "put the model's vocab.txt next to it"
                )
            size = len(self.vocabulary), self.options.lstm.projection_dim
            self._softmax = self._read(lambda: self._reader.softmax(*size))
        return self._softmax

    def _read(self, read: Callable[[], T]) -> T:
        """Read a part. If it may belong to another model, raise an error."""
        try:
            found = read()
        except Exception:
            self._check_place()
            raise
        self._check_place()
        return found

    def _check_place(self) -> None:
        if self._is_replaced():
            raise WeightsError(f"{self.name}: another model has replaced it since it was opened; open it again")


ModelFiles = OpenedModel  # its earlier name


def open_model(path: PathLike, options: PathLike | None = None) -> OpenedModel:
    """Find a model. Nothing is downloaded, and no part is read yet.

    path: one of these, where an existing path wins over the name of a downloaded model:
        - the name of a bundled or downloaded model (`en_elmo_sm`, `allennlp-small`, `flair:small`, `hf:owner/name`)
        - a directory with one weights file and its options (options.json or AllenNLP's …_options.json), or with an
          ELMoForManyLangs model
        - a bilm-tf checkpoint: its folder, or the prefix of its file names
        - the folder of a TF-Hub module, or of an AllenNLP model that contains an ELMo
        - a zip or tar archive of one of these
        - a `.hdf5` file with its options next to it, or that options file
    options: the options.json (or ELMoForManyLangs network config), if it is somewhere else.

    Raises:
        WeightsError: there is no such model, it is not downloaded, its format cannot be read, or a directory or archive
            holds several models.
    """
    root, name, facts = _resolve(path)
    options = None if options is None else path_of(options, "options", OptionsError)
    is_folder = _exists(root.is_dir)
    folder, files = (root, LAYOUT) if is_folder else (root.parent, (*LAYOUT, root.name))

    def find(_: Path) -> tuple[Reader | None, object]:
        return _find(root, None if options is None else at_home(options)), state_of(folder, files)

    reader, state = read_whole(folder, files, find)
    if reader is None:
        raise _refusal(root)
    return OpenedModel(reader, name, facts, is_replaced=lambda: state_of(folder, files) != state)


locate = open_model  # its earlier name


def load(path: PathLike, options: PathLike | None = None) -> BiLM:
    """Load a biLM, in evaluation mode on the CPU. For arguments and errors see `open_model` and `OpenedModel.bilm`.

    If the model is replaced while it is being read, it is read again, so you get the old model or the new one.
    """
    root, _, _ = _resolve(path)
    if not _exists(root.is_dir):
        return open_model(path, options).bilm()
    return read_whole(root, LAYOUT, lambda _: open_model(path, options).bilm())


def read_softmax(folder: PathLike, projection_dim: int) -> tuple[list[str], Softmax]:
    """Read the vocabulary and its softmax, frozen, from a folder. The folder need not hold the weights.

    Raises:
        WeightsError: one of the two is missing or damaged, or they do not fit each other or the projection.
    """
    root = at_home(path_of(folder, "folder", WeightsError))
    if not root.is_dir():
        raise WeightsError(f"{root}: no such folder; expected one with {beside.VOCABULARY} and {softmax_hdf5.NAME}")

    def read(place: Path) -> tuple[list[str], Softmax]:
        words = beside.read_vocabulary(place)
        if words is None:
            raise WeightsError(f"{root}: it has no {beside.VOCABULARY}; expected the words of {softmax_hdf5.NAME}")
        return words, softmax_hdf5.read(place / softmax_hdf5.NAME, len(words), projection_dim)

    return read_whole(root, LAYOUT, read)


def _resolve(path: PathLike) -> tuple[Path, str, Mapping[str, Any]]:
    """Return the model's path, its name, and what is known about it."""
    path_of(path, "weights", WeightsError)
    if not os.fspath(path):
        raise WeightsError(f"the name or path of the weights is empty; {_expected()}")
    if path in _bundled():
        return MODELS / path, str(path), {}
    if isinstance(path, str) and not _exists(Path(path).exists):  # an existing path wins over a name
        if path.startswith(hugging_face.PREFIX):
            hub_model = hugging_face.HubModel.parse(path)
            return hub_model.cached(), str(hub_model), hub_model.card()
        if model := known.find(path):
            if not model.is_downloaded:
                raise WeightsError(f"{path} is not downloaded: python -m spacy elmo download {path}")
            return model.path, model.name, model.card()
    root = _named_by_options(at_home(path))
    return root, root.name or str(root), {}


def _named_by_options(path: Path) -> Path:
    """Return the weights that belong to a named options file: the file with the matching name, or the folder."""
    if path.suffix != ".json" or "options" not in path.name:
        return path
    if path.name == "options.json":
        return path.parent
    weights = path.with_name(f"{path.stem.replace('options', 'weights')}.hdf5")
    return weights if _exists(weights.is_file) else path.parent


def _bundled() -> list[str]:
    return sorted(model.parent.name for model in MODELS.glob("*/weights.hdf5"))


def _expected() -> str:
    return (
        f"expected a bundled name ({', '.join(_bundled())}), a downloaded one (python -m spacy elmo download --list), "
        "a directory (options.json and weights.hdf5, or ELMoForManyLangs), a zip or tar of it, or a .hdf5 file"
    )


def _find(root: Path, options: Path | None) -> Reader | None:
    if _exists(root.is_dir):
        return _first(Place(settled(root, LAYOUT), None, options))
    if _exists(root.is_file) and is_archive(root):
        return _find_in_archive(Archive(root), options)
    settled(root.parent, LAYOUT)
    if _exists(root.is_file) or _begins_names(root):
        return _first(Place(root.parent, root, options))
    address = re.match(r"\w{2,}:/", str(root))
    raise WeightsError(
        f"{root}: weights are read only from files; download it and its options, and name the file"
        if address
        else f"{root}: no such weights; {_expected()}"
    )


def _exists(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # the name is too long for a file
        return False


def _begins_names(root: Path) -> bool:
    """Whether there are files whose names start with this one, as in a TensorFlow checkpoint."""
    try:
        return bool(root.name) and any(file.name.startswith(f"{root.name}.") for file in root.parent.iterdir())
    except (OSError, ValueError):
        return False


def _first(place: Place) -> Reader | None:
    return next(filter(None, (find(place) for find in FORMATS)), None)


def _find_in_archive(archive: Archive, options: Path | None) -> Reader | None:
    """Look for a model at the top of an archive and in each folder there.

    If the top holds a model, models of other formats in its folders belong to it. One of the same format is another
    model.
    """
    folders = [archive.top, *(member for member in archive.top.iterdir() if member.is_dir())]
    found = [(folder, reader) for folder in folders if (reader := _first(Place(folder, None, options)))]
    if found and found[0][0] == archive.top:
        found = [(folder, reader) for folder, reader in found if isinstance(reader, type(found[0][1]))]
    if len(found) > 1:
        seen = listed(str(folder.inner) for folder, _ in found)
        raise WeightsError(f"{archive.path}: weights in several folders ({seen}); unpack it and name one of them")
    return found[0][1] if found else None


def _refusal(root: Path) -> WeightsError:
    """Return the error for files in which no format finds a model."""
    names = _names(root)
    if what := foreign.explain(names):
        return WeightsError(f"{root}: {what}")
    if root.is_file() and not is_archive(root):
        return WeightsError(f"{root}: not a weights file of a known format; expected HDF5; is it damaged, or cut off?")
    return WeightsError(f"{root}: expected one weights file, weights.hdf5 or another .hdf5; found none")


def _names(root: Path) -> list[str]:
    """Names of the files in a directory or archive, of one file, or of the files whose names start with this one."""
    if root.is_dir():
        return [file.name for file in root.iterdir()]
    if not root.is_file():
        return [file.name for file in root.parent.iterdir() if file.name.startswith(f"{root.name}.")]
    return [PurePath(name).name for name in Archive(root).sizes] if is_archive(root) else [root.name]
