"""What subjects share: small models that only checks can tell apart, and those checks."""

import hashlib
from pathlib import Path

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM, BiLMOptions
from spacy_elmo.bilm.softmax import Softmax

WORDS = ["<S>", "</S>", "<UNK>", "the", "bank"]


class Subject:
    """Base class of most subjects."""

    kept, ended = {"old", "new"}, {"new"}

    def between(self, folder: Path) -> None:
        """Do nothing between the fault and the next run."""

    def write_among_others(self, folder: Path, turn: int) -> None:
        """Write the same again, while others write and read. turn: counts these calls."""
        self.write(folder)

    def write(self, folder: Path) -> None:
        """See `harness.Subject`."""
        raise NotImplementedError


def write_model(folder: Path, cell_clip: float, seed: int, is_whole: bool = True) -> None:
    """Write a model. All have the same shapes, so only a check can notice parts of two different models."""
    options = {
        "lstm": {"dim": 24, "projection_dim": 8, "n_layers": 2, "cell_clip": cell_clip, "use_skip_connections": True},
        "char_cnn": {
            "filters": [[1, 8], [2, 8]],
            "embedding": {"dim": 4},
            "activation": "relu",
            "n_highway": 1,
            "max_characters_per_token": 16,
            "n_characters": 262,
        },
    }
    bilm = BiLM(BiLMOptions.from_dict(options), seed=seed)
    bilm.card = {"name": f"model {seed}"}
    words = [*WORDS, f"word{seed}"] if is_whole else None
    softmax = Softmax(len(WORDS) + 1, 8, seed=seed) if is_whole else None
    formats.write(bilm, folder, vocabulary=words, softmax=softmax)


def facts(model: formats.OpenedModel) -> tuple[object, ...]:
    """Return everything that distinguishes a model from another, through its readers."""
    softmax = model.softmax() if model.has_softmax else Softmax(1, 1, seed=0)
    return (
        model.digest,
        " ".join(model.vocabulary or []),
        model.card.get("name"),
        model.card.get("tokens_seen"),
        hashlib.sha256(softmax.weight.detach().numpy().tobytes()).hexdigest(),
    )


def content(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder by name; empty if there is no folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}
