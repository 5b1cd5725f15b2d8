"""Say what to do about a model whose format is not read here, by its file names.

Only the names are looked at. The files are not opened, because pickles can run code.
"""

from collections.abc import Collection
from pathlib import PurePath

_PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".th", ".bin", ".ckpt")
_PACKED = (".7z", ".rar", ".zst", ".lzma", ".Z")


def explain(names: Collection[str]) -> str | None:
    """Say what a model with these files is and what to do instead; None if that is unknown.

    names: of the files in a directory or archive, or of one file, without folders.
    """
    names = set(names)
    endings = {PurePath(name).suffix.lower() for name in names}
    if names & {"encoder.pkl", "token_embedder.pkl"}:
        return (
            "an ELMoForManyLangs model; unpack the archive, and name the directory with token_embedder.pkl and "
            "encoder.pkl"
        )
    if names & {"saved_model.pb", "tfhub_module.pb"}:
        return (
            "part of a TF-Hub module; put all its files together, and name the folder that contains saved_model.pb and "
            "variables/"
        )
    if "checkpoint" in names or ".index" in endings or any(".ckpt" in name for name in names):
        return (
            "a TensorFlow checkpoint, or part of one, without its .index file; put the .index and .data files of one "
            "step together"
        )
    if "weights.th" in names:
        return "an AllenNLP model; unpack the archive, and name the directory with weights.th and config.json"
    if endings & set(_PICKLED):
        return "a pickle; it was not opened, because pickles can run code, and no ELMo is published as such a file"
    if endings & set(_PACKED):
        return "an archive that is neither zip nor tar; unpack it and name the directory"
    return None
