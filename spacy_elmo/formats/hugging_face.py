"""Find the files of `hf:owner/name`, a repository of the Hugging Face hub, in the hub's local cache."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacy_elmo.errors import ElmoError, WeightsError

PREFIX = "hf:"
WEIGHTS = "weights.hdf5"
NEEDED = ("options.json", WEIGHTS)
OTHERS = ("model_card.json", "ATTRIBUTION.md", "vocab.txt", "vocab.txt.gz", "softmax.hdf5")

_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+(/[\w.-]+)*))?", re.ASCII)


@dataclass(frozen=True)
class HubModel:
    """A model in a Hugging Face hub repository. revision: a branch, tag or commit."""

    repository: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + ("" if self.revision == "main" else f"@{self.revision}")

    @classmethod
    def parse(cls, name: str) -> "HubModel":
        """Read `hf:owner/name` or `hf:owner/name@revision`.

        Raises:
            ElmoError: the name has another form.
        """
        found = _NAME.fullmatch(name.removeprefix(PREFIX))
        if found is None or ".." in name:
            raise ElmoError(f"{name}: expected {PREFIX}owner/name, or {PREFIX}owner/name@revision")
        return cls(found["repository"], found["revision"] or "main")

    def cached(self) -> Path:
        """Return the folder of the local cache that holds the files. Nothing is downloaded.

        Raises:
            WeightsError: some files are missing.
            ElmoError: huggingface_hub is not installed.
        """
        hub = import_hub()
        found = [hub.try_to_load_from_cache(self.repository, name, revision=self.revision) for name in NEEDED]
        if not all(isinstance(path, str) and Path(path).is_file() for path in found):
            raise WeightsError(f"{self} is not downloaded: python -m spacy elmo download {self}")
        return Path(found[0]).parent

    def card(self) -> dict[str, Any]:
        """Return facts to add to the model card."""
        return {"name": self.repository}


def import_hub() -> Any:
    """Import the package huggingface_hub.

    Raises:
        ElmoError: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise ElmoError(
            f'names that start with {PREFIX} need the package huggingface_hub: pip install "spacy-elmo[hf]"'
        ) from None
    return huggingface_hub
