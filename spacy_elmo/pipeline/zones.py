"""Memory zones in, an error out if two zones of one vocabulary are open at once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from spacy_elmo.errors import ElmoError


class Zones:
    """The open memory zones of a pipeline.

    A spaCy zone belongs to the vocabulary, not to a thread (`Vocab.memory_zone`). The first zone that ends removes the
    words of all, and frees their memory: tokens of the others lose their text, or get another text. So all zones that
    were open together end with an error.
    """

    def __init__(self) -> None:
        self._open: set[tuple[int, object]] = set()  # a forked process starts with none, whatever its parent has
        self._overlap = False

    @contextmanager
    def opened(self) -> Iterator[None]:
        """One zone, from its start to its end.

        Raises:
            ElmoError: another zone was open at the same time, even if that did no harm.
        """
        zone = os.getpid(), object()
        self._open.add(zone)
        try:
            self._check()
            yield
            self._check()
        except Exception as error:
            if not self._overlap or isinstance(error, _OverlapError):
                raise
            raise _OverlapError from error
        finally:
            self._open.discard(zone)
            self._overlap = self._overlap and self._n_open() > 0

    def _check(self) -> None:
        if self._overlap or self._n_open() > 1:
            self._overlap = True
            raise _OverlapError

    def _n_open(self) -> int:
        return sum(process == os.getpid() for process, _ in list(self._open))  # other threads may change the set

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]


_OVERLAP = (
    "two memory zones of one pipeline were open at once: in spaCy, the first one that ends removes the words of both. "
    "Use a lock so that threads open them one after the other, open one zone around all threads, or give each thread "
    "its own pipeline"
)


class _OverlapError(ElmoError):
    def __init__(self, message: str = _OVERLAP) -> None:
        super().__init__(message)
