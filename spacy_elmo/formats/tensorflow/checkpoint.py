"""Find the files of a checkpoint of bilm-tf's training, by its folder or name.

A checkpoint is `model.ckpt-STEP.index`, `.data-00000-of-00001` and `.meta`. If there are several, the file `checkpoint`
next to them says which is the newest.
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
    """See `reader.Find`. A checkpoint can be named by any of its files, or by the prefix of their names.

    If a folder has several, the newest is used. That is the one in the file `checkpoint`, even if the folder was moved
    since, or otherwise the one with the highest step.
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
    """The folder of options.json and vocabulary. DeepPavlov's checkpoints are below it: `saves/`, `saves/epochs/N/`."""
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
    """Return the last part of the path in `checkpoint`. The path is absolute, but folders get moved."""
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
    """Refuse an old format, in which today's index file was the whole checkpoint."""
    if file.is_file():
        with reading(file) as content:
            if table.is_table(content):
                raise WeightsError(
                    f"{file}: a checkpoint in TensorFlow's first format (before 0.12), which cannot be read; load it "
                    "with TensorFlow and save it with `tf.train.Saver()`"
                )
