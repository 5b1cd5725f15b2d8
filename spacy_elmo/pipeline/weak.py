"""An object in, a reference out that does not keep it alive, and that can be copied and sent to other processes."""

import weakref
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Weak(Generic[T]):
    """A weak reference. Unlike Python's own, it can be pickled, together with its object.

    A deep copy refers to the copy of the object if that is copied, too, otherwise to the object itself.
    """

    def __init__(self, target: T) -> None:
        self._ref = weakref.ref(target)

    def __call__(self) -> T | None:
        """Return the object, or None if it is gone."""
        return self._ref()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Weak[T]":
        target = self()
        return self if target is None else Weak(memo.get(id(target), target))

    def __getstate__(self) -> dict[str, Any]:
        return {"target": self()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # If the object is gone, refer to another one that is gone by the end of this line.
        self._ref = weakref.ref(state["target"] if state["target"] is not None else _Gone())  # type: ignore[arg-type]


class _Gone:
    """An object that nothing else refers to."""
