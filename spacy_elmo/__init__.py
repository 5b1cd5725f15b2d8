"""ELMo for spaCy.

This module imports neither spaCy nor torch, so `spacy_elmo.bilm` and `spacy_elmo.formats` run without spaCy. The
pipeline part is loaded on first use.
"""

from typing import TYPE_CHECKING, Any

from spacy_elmo.errors import ElmoError, OptionsError, WeightsError
from spacy_elmo.version import VERSION

if TYPE_CHECKING:
    from spacy_elmo.pipeline.annotations import restore_hooks
    from spacy_elmo.pipeline.task_weights import task_weights
    from spacy_elmo.tools.score import score

__version__ = VERSION
__all__ = ["ElmoError", "OptionsError", "WeightsError", "__version__", "restore_hooks", "score", "task_weights"]


def __getattr__(name: str) -> Any:
    if name == "restore_hooks":
        from spacy_elmo.pipeline.annotations import restore_hooks

        return restore_hooks
    if name == "task_weights":
        from spacy_elmo.pipeline.task_weights import task_weights

        return task_weights
    if name == "score":
        from spacy_elmo.tools.score import score

        return score
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
