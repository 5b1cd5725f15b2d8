"""A pipeline that is about to start several processes in; a one-line error out, if its weights are wrong.

spaCy starts the workers of `nlp.pipe(n_process=...)` without asking the components. An error in a worker comes back
as spaCy's error with the worker's whole traceback (E871), or goes to the error handler, batch by batch.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc
from thinc.api import Model


class NeedsWeights:
    """A component, shim or model attribute of ours that needs weights to predict."""

    def read_weights(self) -> object:
        """Read the weights now, if they are not in memory.

        Raises:
            ElmoError: they cannot be read, or do not fit.
        """
        raise NotImplementedError

    def needs_weights(self, running: Collection[str]) -> bool:
        """Whether it needs them in a pipeline where the components of these names run."""
        return True


def read_weights(component: Any, running: Collection[str]) -> None:
    """Read the weights of all biLMs that a component needs: its own, and those of components that it listens to.

    running: names of the components that will run.

    Raises:
        ElmoError: some cannot be read, or do not fit.
    """
    if isinstance(component, NeedsWeights):
        component.read_weights()
    model = getattr(component, "model", None)
    if isinstance(model, Model):
        for node in model.walk():
            for part in (*node.shims, *node.attrs.values()):
                if isinstance(part, NeedsWeights) and part.needs_weights(running):
                    part.read_weights()


def _reading_first(start: Callable[..., Iterator[Doc]]) -> Callable[..., Iterator[Doc]]:
    """`Language._multiprocessing_pipe`, but it reads the weights before it starts processes."""

    @functools.wraps(start)
    def read_and_start(nlp: Language, texts: Any, pipes: Iterable[Any], *rest: Any, **named: Any) -> Iterator[Doc]:
        pipes = list(pipes)
        components = [getattr(pipe, "keywords", {}).get("proc") for pipe in pipes]
        running = [getattr(component, "name", "") for component in components]
        for component in components:
            read_weights(component, running)
        return start(nlp, texts, pipes, *rest, **named)

    return read_and_start


# This is the only place in spaCy 3.8 that runs in the parent, only for several processes, and knows the components. It
# is changed in the class, not in one pipeline, because a component does not notice when another pipeline sources it. It
# is private: if a later spaCy no longer has it, each worker reports wrong weights.
if hasattr(Language, "_multiprocessing_pipe"):
    Language._multiprocessing_pipe = _reading_first(Language._multiprocessing_pipe)  # type: ignore[method-assign]
