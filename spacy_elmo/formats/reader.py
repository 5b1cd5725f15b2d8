"""What a format has to define, so that `open_model` can open its models."""

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
    """Where a model is looked for: a folder on disk or in an archive, and the file in it that was named.

    file: None where the folder itself was named. It may not be there, as the start of a checkpoint's file names is not.
    options: a file of options that the user names, for weights that have none beside them or others.
    """

    folder: Folder
    file: File | None = None
    options: Path | None = None

    def __str__(self) -> str:
        return str(self.folder if self.file is None else self.file)

    @cached_property
    def names(self) -> list[str]:
        """What lies in the folder, in order."""
        try:
            return sorted(entry.name for entry in self.folder.iterdir()) if self.folder.is_dir() else []
        except OSError as error:
            raise WeightsError(f"{self.folder}: cannot be looked into ({error})") from None

    @property
    def container(self) -> str:
        """What to add to the name of a format."""
        return f" in a {self.folder.archive.kind}" if isinstance(self.folder, Member) else ""


class Parts(Protocol):
    """What is known of a model before its weights are read. Each part is read when it is first asked for, then kept."""

    @property
    def options(self) -> BiLMOptions:
        """The architecture."""

    @property
    def card(self) -> dict[str, Any]:
        """What its authors say of it: name, license, language, description."""

    @property
    def vocabulary(self) -> list[str] | None:
        """The words that its softmax predicts, or that a biLM without characters reads, in the order of their ids."""


class Reader(Protocol):
    """Reads the parts of one model from its files, each anew at each call. Nothing is read before."""

    @property
    def format(self) -> str:
        """Its name, to show."""

    @property
    def weights_bytes(self) -> int:
        """Size of the files of weights."""

    def options(self) -> BiLMOptions:
        """Read the architecture.

        Raises:
            OptionsError: it is missing or wrong.
        """

    def card(self) -> dict[str, Any]:
        """Read the model card; empty where there is none."""

    def vocabulary(self) -> list[str] | None:
        """Read the words; None where there are none."""

    def bilm(self, parts: Parts) -> BiLM:
        """Read the weights into a frozen biLM in evaluation mode, on the CPU.

        Raises:
            WeightsError: they are missing, damaged, hostile, or do not fit the options.
        """

    def why_no_softmax(self) -> str | None:
        """Say in one line, which names the file, why the model cannot predict words; None where it has a softmax."""

    def softmax(self, n_words: int, projection_dim: int) -> Softmax:
        """Read the softmax over a vocabulary of `n_words` into a frozen module in evaluation mode.

        Raises:
            WeightsError: it is damaged or of another shape.
        """


@runtime_checkable
class MixReader(Protocol):
    """What a format defines beside that, if its models may come with mixes of their layers, learned with some task."""

    def mixes(self) -> list[list[float]]:
        """Read the weights of each mix, one for each layer, gamma multiplied in; empty where there are none."""


# Looks at names only. None: the model that lies there, if any, is of another format. It raises WeightsError where the
# model is of its format, but cannot be read or is one of several.
Find = Callable[[Place], Reader | None]
