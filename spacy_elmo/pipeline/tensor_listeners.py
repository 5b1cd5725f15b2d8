"""spaCy's own listeners, which read `doc.tensor`: which ones come after `elmo`, and what they train on.

`spacy.Tok2VecListener.v1` gives zeros if no upstream component ran, and does not report what it trains on. `watch`
fixes that. (See `spacy/pipeline/tok2vec.py` for all of this.)
"""

import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
import srsly
from spacy.language import Language
from spacy.pipeline.tok2vec import Tok2VecListener
from spacy.pipeline.tok2vec import forward as tok2vec_listener_forward
from spacy.tokens import Doc
from thinc.api import Model
from thinc.model import deserialize_attr, serialize_attr

from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline.annotations import stored_vectors
from spacy_elmo.pipeline.connection import Connection
from spacy_elmo.pipeline.rows import Array
from spacy_elmo.pipeline.upstream import Upstream

ANY = "*"  # the upstream of a listener that accepts any tok2vec
_CONNECTION = "elmo_connection"


class TensorReaders:
    """spaCy's listeners after an `elmo` component, whichever component they listen to.

    spaCy only shows components that are enabled (`Language._link_components`), but disabled ones read the tensor when
    they are enabled again. So each is kept until it is gone from its pipeline.
    """

    def __init__(self) -> None:
        self._readers: weakref.WeakKeyDictionary[Tok2VecListener, _Reader] = weakref.WeakKeyDictionary()

    def add(self, listener: Tok2VecListener, component: Any, pipelines: Iterable[Language]) -> None:
        """Add a listener in the model of a component; pipelines: those that the component may be in."""
        homes = [nlp for nlp in pipelines if any(other is component for _, other in nlp.components)]
        self._readers.setdefault(listener, _Reader(component.model.id)).note(component.name, homes)

    def discard(self, listener: Tok2VecListener) -> None:
        """Remove a listener that is replaced."""
        self._readers.pop(listener, None)

    def of(self, upstream_name: str) -> dict[Tok2VecListener, str]:
        """Return the listeners that listen to a component of this name, with their own components' names."""
        return {listener: name for listener, name in self._living() if listener.upstream_name == upstream_name}

    def of_others(self, name: str) -> dict[Tok2VecListener, str]:
        """Return the listeners that listen to a component of another name."""
        return {listener: own for listener, own in self._living() if listener.upstream_name not in (name, ANY)}

    def _living(self) -> list[tuple[Tok2VecListener, str]]:
        return [(listener, reader.name) for listener, reader in list(self._readers.items()) if reader.is_in_pipeline]

    def __reduce__(self) -> tuple[Any, ...]:
        return TensorReaders, (), {"listeners": self._living()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a copy or another process: pipelines are not copied."""
        for listener, name in state["listeners"]:
            self._readers.setdefault(listener, _Reader(listener.id)).note(name, [])


class _Reader:
    """Where a listener is: in a component's model, in pipelines that are known or unknown.

    model_id: of that model; name: of the component.
    """

    def __init__(self, model_id: int) -> None:
        self.name = ""
        self._model_id = model_id
        self._homes: list[weakref.ref[Language]] = []
        self._is_elsewhere = False

    def note(self, name: str, homes: Iterable[Language]) -> None:
        self.name, self._homes = name, [weakref.ref(nlp) for nlp in homes]
        self._is_elsewhere = self._is_elsewhere or not self._homes

    @property
    def is_in_pipeline(self) -> bool:
        """Whether its component is still in a pipeline, as far as we can tell."""
        if self._is_elsewhere:
            return True
        living = [nlp for home in self._homes if (nlp := home()) is not None]
        models = [getattr(component, "model", None) for nlp in living for _, component in nlp.components]
        return any(isinstance(model, Model) and model.id == self._model_id for model in models)


def holds_tensor_of_another(doc: Doc) -> bool:
    """Whether another component has set `doc.tensor`: it differs from `doc._.elmo`.

    Retokenizing drops, repeats or zeroes rows of the tensor (`spacy/tokens/_retokenize.pyx`); the other rows stay the
    same.
    """
    tensor, vectors = doc.tensor, stored_vectors(doc)
    if tensor is None or not tensor.size or tensor is vectors:  # None: from doc_cleaner
        return False
    if not isinstance(tensor, np.ndarray) or not isinstance(vectors, np.ndarray):
        return True
    if tensor.shape[1:] != vectors.shape[1:]:
        return True
    if np.array_equal(tensor, vectors):
        return False
    return any(row.any() and not (vectors == row).all(axis=1).any() for row in tensor)


def serve(
    listeners: Iterable[Tok2VecListener],
    docs: Sequence[Doc],
    mixed: list[Array],
    backprop: Callable[[list[Array]], list[Doc]],
) -> None:
    """Give listeners their training input, by the batch, as they need it.

    mixed: `[n_tokens, width]` of each Doc; backprop: takes the gradients of these.
    """
    for listener in listeners:
        listener.receive(Tok2VecListener.get_batch_id(docs), mixed, _Backprop(backprop))


class _Backprop:
    """Takes gradients in this process. A listener keeps it after the batch, so copies and other processes get one that
    does nothing."""

    def __init__(self, backprop: Callable[[list[Array]], list[Doc]] | None = None) -> None:
        self._backprop = backprop

    def __call__(self, gradients: list[Array]) -> list[Doc]:
        return [] if self._backprop is None else self._backprop(gradients)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Backprop, ()


def check_width(listener: Tok2VecListener, width: int, upstream_name: str, layers: Any) -> None:
    """Raise an ElmoError if a listener's width is not that of the mix that it listens to."""
    if listener.has_dim("nO") and (asked := listener.get_dim("nO")) != width:
        raise ElmoError(
            f"{upstream_name}: the width of a spacy.Tok2VecListener.v1 is {asked}, but the mix that it listens to "
            f"(layers = {layers!r}) has width {width}; set width = {width}"
        )


def watch(listener: Tok2VecListener, upstream: Upstream, component_name: str) -> None:
    """Connect a listener to the component upstream: it warns before it gives zeros, tells upstream what it is trained
    on, and refuses weights other than those that it was trained with."""
    connection = connection_of(listener)
    if connection is None:
        connection, loaded = TensorConnection(), listener.attrs.get(_CONNECTION)
        if loaded and isinstance(loaded, str):  # the listener was loaded before it was watched
            connection.load(loaded)
        listener.attrs[_CONNECTION] = connection
        listener.replace_callbacks(_forward, init=_init)
        listener.__class__ = _WatchedListener
    connection.connect(upstream, component_name)


def connection_of(listener: Tok2VecListener) -> "TensorConnection | None":
    """Return the connection of a listener that is watched."""
    connection = listener.attrs.get(_CONNECTION)
    return connection if isinstance(connection, TensorConnection) else None


class _WatchedListener(Tok2VecListener):
    """A listener that is watched. When it is loaded, it forgets what it was trained with.

    thinc only loads attributes that were saved, so the record would outlive a load of an earlier version's file, which
    has none. But it first sets the dimensions (`thinc.Model.from_dict`). Nothing else sets them after initialization.
    """

    def set_dim(self, name: str, value: int, *, force: bool = False) -> None:
        """Set a dimension, as `Model.set_dim`."""
        super().set_dim(name, value, force=force)
        if (connection := connection_of(self)) is not None:
            connection.begin()


class TensorConnection(Connection):
    """The connection of a listener of spaCy's. The identity of its weights is saved with it, as text, which thinc can
    load without us. Earlier versions saved none; then nothing is checked."""

    def needs_weights(self, running: Collection[str]) -> bool:
        """Whether the component upstream runs: else the listener reads no vectors of its."""
        return self.upstream is not None and self.upstream.name in running


@serialize_attr.register
def _serialize_connection(_: TensorConnection, value: TensorConnection, name: str, model: Model[Any, Any]) -> bytes:
    identity = value.identity if value.trained_with.is_trained else None
    return bytes(srsly.msgpack_dumps(identity or ""))  # empty if it was not trained


@deserialize_attr.register
def _deserialize_connection(_: TensorConnection, value: Any, name: str, model: Model[Any, Any]) -> TensorConnection:
    connection: TensorConnection = model.attrs[name]
    if identity := srsly.msgpack_loads(value):  # else it was not trained, and `set_dim` has forgotten the old record
        connection.load(identity)
    return connection


def _init(model: Any, X: list[Doc] | None = None, Y: Any = None) -> None:  # noqa: N803 (thinc's names)
    connection: TensorConnection = model.attrs[_CONNECTION]
    connection.begin()
    connection.absences.expect(X or [])


def _forward(model: Any, docs: list[Doc], is_train: bool) -> Any:
    connection: TensorConnection = model.attrs[_CONNECTION]
    upstream = connection.upstream_of(docs)
    missing = [doc for doc in docs if len(doc) and doc.tensor.size == 0]
    if not is_train and missing:
        consequence = "it gets zeros, so its predictions mean nothing"
        connection.absences.warn(missing, model.upstream_name, "a listener", consequence)
    elif upstream is not None and connection.trained_with.is_trained:
        # An evaluation may come before a component's first batch. Unlike ours, spaCy's listeners do not know whether
        # they are trained. So while the biLM learns, they are only checked against the weights from before.
        connection.check(upstream, is_train=True)
    if is_train:
        if upstream is not None:
            connection.trained_with.note(upstream.weights, upstream.learns)
            upstream.note_training(docs)
        if model._batch_id is None and not missing:
            is_train = False  # with True it would also read doc.tensor, but raise an error for empty Docs
    return tok2vec_listener_forward(model, docs, is_train)
