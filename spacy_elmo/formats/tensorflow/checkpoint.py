"""A folder or the name of a checkpoint in, the files of that checkpoint of bilm-tf's training out.

One checkpoint is `model.ckpt-STEP.index`, `.data-00000-of-00001` and `.meta`; the file `checkpoint` beside several says
which is the newest.
"""

import re

from spacy_elmo.errors import WeightsError
from spacy_elmo.formats.archive import File, Folder, read_whole, reading, size_of
from spacy_elmo.formats.reader import Place
from spacy_elmo.formats.tensorflow import hub, table
from spacy_elmo.formats.tensorflow.bundle import SUFFIX
from spacy_elmo.formats.tensorflow.model import TensorFlowModel
from spacy_elmo.support.messages import listed

FORMAT = "bilm-tf checkpoint"

_STATE = "checkpoint"
_MOST_STATE = 2**20  # bytes
_NEWEST = re.compile(rb'^[ \t]*model_checkpoint_path:\s*"((?:[^"\\]|\\.)*)"', re.MULTILINE)
_ENDING = re.compile(r"\.(?:index|meta|data-\d{5}-of-\d{5})$")
_IN_DEEPPAVLOV = re.compile(r"saves|epochs|\d+")
_STEP = re.compile(r"(.*)-(\d{1,18})")


def find(place: Place) -> TensorFlowModel | None:
    """See `reader.Find`. A checkpoint is named by any of its files, or by what their names begin with.

    Of several in a folder the newest is taken: the one that `checkpoint` names, wherever it says that the folder is, or
    else the one of the highest step.
    """
    named = place.file.name if place.file else _STATE
    prefix = _newest(place) if named == _STATE else _ENDING.sub("", named)
    if prefix is None or hub.is_of_module(place.folder):
        return None
    if f"{prefix}{SUFFIX}" not in place.names:
        _refuse_first_format(place.folder / prefix)
        return None
    step = _STEP.fullmatch(prefix)
    return TensorFlowModel(
        format=FORMAT + (f" of step {int(step[2]):,}" if step else "") + place.container,
        folder=_home(place.folder),
        index=place.folder / f"{prefix}{SUFFIX}",
        graph=place.folder / f"{prefix}.meta",
        named_options=place.options,
    )


def _home(folder: Folder) -> Folder:
    """Where options.json and the vocabulary lie: DeepPavlov has checkpoints in `saves/` and `saves/epochs/N/` below."""
    home = folder
    while _IN_DEEPPAVLOV.fullmatch(home.name):
        home = home.parent
    return home if (home / "options.json").is_file() else folder


def _newest(place: Place) -> str | None:
    found = [name.removesuffix(SUFFIX) for name in place.names if name.endswith(SUFFIX)]
    named = _named_by_state(place.folder)
    if named in found:
        return named
    if len(found) < 2:
        return found[0] if found else named
    steps = [(match[1], int(match[2]), prefix) for prefix in found if (match := _STEP.fullmatch(prefix))]
    if len(steps) < len(found) or len({name for name, _, _ in steps}) > 1:
        raise WeightsError(f"{place}: holds several checkpoints, {listed(found)}; name one of them")
    return max(steps)[2]


def _named_by_state(folder: Folder) -> str | None:
    """The last part of the path that `checkpoint` gives: it is absolute, and folders are moved."""
    file = folder / _STATE
    if (
        not file.is_file()
        or size_of(file) > _MOST_STATE
        or not (match := _NEWEST.search(read_whole(file, _MOST_STATE)))
    ):
        return None
    path = match[1].decode(errors="replace").replace("\\\\", "/")
    return path.rpartition("/")[2]


def _refuse_first_format(file: File) -> None:
    """What is an index today was once the whole checkpoint."""
    if file.is_file():
        with reading(file) as content:
            if table.is_table(content):
                raise WeightsError(
                    f"{file}: a checkpoint in the first format of TensorFlow (before 0.12), which is not read; load it "
                    "with TensorFlow and save it with `tf.train.Saver()`"
                )
