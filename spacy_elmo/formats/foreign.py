"""Names of files in, what to do about a model that is not in a format read here out.

Files are told apart by name only. None of them is opened: pickles can run code.
"""

from collections.abc import Collection
from pathlib import PurePath

_PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".th", ".bin", ".ckpt")
_PACKED = (".7z", ".rar", ".zst", ".lzma", ".Z")


def explain(names: Collection[str]) -> str | None:
    """Say what a model with these files is and what to do instead; None where that is not known.

    names: of the files of a directory or archive, or of one file, without their folders.
    """
    names = set(names)
    endings = {PurePath(name).suffix.lower() for name in names}
    if names & {"encoder.pkl", "token_embedder.pkl"}:
        return (
            "a model of ELMoForManyLangs; unpack the archive, and name the directory that holds token_embedder.pkl and "
            "encoder.pkl"
        )
    if names & {"saved_model.pb", "tfhub_module.pb"}:
        return (
            "a part of a TF-Hub module; put all of it together, and name the folder that has saved_model.pb and "
            "variables/ in it"
        )
    if "checkpoint" in names or ".index" in endings or any(".ckpt" in name for name in names):
        return (
            "a TensorFlow checkpoint, or a part of one, without its .index file; put the .index and .data files of one "
            "step together"
        )
    if "weights.th" in names:
        return "a model of AllenNLP; unpack the archive, and name the directory that holds weights.th and config.json"
    if endings & set(_PICKLED):
        return "a pickle; no ELMo is published as one, and pickles can run code, so it was not opened"
    if endings & set(_PACKED):
        return "an archive that is neither zip nor tar; unpack it and name the directory"
    return None
