"""What a format must define so that `open_model` can open its models."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.softmax import Softmax
from spacy_elmo.errors import WeightsError
from spacy_elmo.formats.archive import File, Folder, Member


@dataclass(frozen=True)
class Place:
    """Where to look for a model: a folder on disk or in an archive, and the named file in it.

    file: None if the folder itself was named. The file need not exist: it may be the prefix of a checkpoint's files.
    options: an options file that the user names, instead of the one next to the weights.
    """

    folder: Folder
    file: File | None = None
    options: Path | None = None

    def __str__(self) -> str:
        return str(self.folder if self.file is None else self.file)

    @cached_property
    def names(self) -> list[str]:
        """Sorted names of the folder's entries."""
        try:
            return sorted(entry.name for entry in self.folder.iterdir()) if self.folder.is_dir() else []
        except OSError as error:
            raise WeightsError(f"{self.folder}: cannot list the folder ({error})") from None

    @property
    def container(self) -> str:
        """Text to append to the name of a format."""
        return f" in a {self.folder.archive.kind}" if isinstance(self.folder, Member) else ""


class Parts(Protocol):
    """What is known about a model before its weights are read. Each part is read on first use, then kept."""

    @property
    def options(self) -> BiLMOptions:
        """The architecture."""

    @property
    def card(self) -> dict[str, Any]:
        """What the authors say about the model: name, license, language, description."""

    @property
    def vocabulary(self) -> list[str] | None:
        """The words that the softmax predicts, or that a biLM without characters reads, in the order of their ids."""


class Reader(Protocol):
    """Reads the parts of one model from its files. Each call reads the files again; nothing is read before a call."""

    @property
    def format(self) -> str:
        """Name of the format, for display."""

    @property
    def weights_bytes(self) -> int:
        """Size of the weights files."""

    def options(self) -> BiLMOptions:
        """Read the architecture.

        Raises:
            OptionsError: it is missing or wrong.
        """

    def card(self) -> dict[str, Any]:
        """Read the model card; empty if there is none."""

    def vocabulary(self) -> list[str] | None:
        """Read the words; None if there are none."""

    def bilm(self, parts: Parts) -> BiLM:
        """Read the weights into a frozen biLM in evaluation mode, on the CPU.

        Raises:
            WeightsError: they are missing, damaged, hostile, or do not fit the options.
        """

    def why_no_softmax(self) -> str | None:
        """Say in one line, with the file's name, why the model cannot predict words; None if it has a softmax."""

    def softmax(self, n_words: int, projection_dim: int) -> Softmax:
        """Read the softmax over a vocabulary of `n_words` into a frozen module in evaluation mode.

        Raises:
            WeightsError: it is damaged or has a wrong shape.
        """


@runtime_checkable
class MixReader(Protocol):
    """What a format defines in addition if its models may come with layer mixes learned on a task."""

    def mixes(self) -> list[list[float]]:
        """Read the weights of each mix, one per layer, multiplied by gamma; empty if there are none."""


# Looks only at names. Returns None if the place holds no model of this format. Raises WeightsError if it does, but the
# model cannot be read or is one of several.
Find = Callable[[Place], Reader | None]
