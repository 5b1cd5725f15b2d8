"""Find the files of a TF-Hub module in its folder: `saved_model.pb`, `variables/variables.index` and its shards."""

from spacy_elmo.formats.archive import Folder
from spacy_elmo.formats.reader import Place
from spacy_elmo.formats.tensorflow.bundle import SUFFIX
from spacy_elmo.formats.tensorflow.model import TensorFlowModel

FORMAT = "TF-Hub module"

_GRAPH, _VARIABLES = "saved_model.pb", "variables"


def find(place: Place) -> TensorFlowModel | None:
    """See `reader.Find`. A module can be named by its folder, its `saved_model.pb` or its `variables.index`."""
    folder, file = place.folder, place.file
    if file is not None and file.name == f"{_VARIABLES}{SUFFIX}" and is_of_module(folder):
        folder = folder.parent
    elif _GRAPH not in place.names or file not in (None, folder / _GRAPH):
        return None
    return TensorFlowModel(
        format=FORMAT + place.container,
        folder=folder,
        index=folder / _VARIABLES / f"{_VARIABLES}{SUFFIX}",
        graph=folder / _GRAPH,
        named_options=place.options,
    )


def is_of_module(folder: Folder) -> bool:
    """Whether a folder holds the variables of a module."""
    return folder.name == _VARIABLES and (folder.parent / _GRAPH).is_file()
