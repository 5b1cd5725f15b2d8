"""An object in, a reference out that does not keep it alive, and that goes along into copies and other processes."""

import weakref
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Weak(Generic[T]):
    """A weak reference; unlike Python's own it can be pickled, together with what it refers to.

    In a deep copy it refers to the copy of the object where that is copied, too, else to the object itself.
    """

    def __init__(self, target: T) -> None:
        self._ref = weakref.ref(target)

    def __call__(self) -> T | None:
        """The object, if it is still there."""
        return self._ref()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Weak[T]":
        target = self()
        return self if target is None else Weak(memo.get(id(target), target))

    def __getstate__(self) -> dict[str, Any]:
        return {"target": self()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Of an object that is gone, that of another that is gone by the end of this line.
        self._ref = weakref.ref(state["target"] if state["target"] is not None else _Gone())  # type: ignore[arg-type]


class _Gone:
    """Something that nobody keeps."""
