"""The link between an `elmo` component and its listeners: who listens, and the rows that are ready for each Doc.

Our listeners ask for the rows of all layers by Doc. spaCy's listeners read the component's own mix from `doc.tensor`.
"""

import time
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from spacy.language import Language
from spacy.pipeline.entity_linker import EntityLinker
from spacy.pipeline.tok2vec import Tok2Vec, Tok2VecListener
from spacy.tokens import Doc
from thinc.api import Model

from spacy_elmo.bilm import BiLMOptions
from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline import tensor_listeners
from spacy_elmo.pipeline.attributes import words_of
from spacy_elmo.pipeline.connection import Connection
from spacy_elmo.pipeline.encoder import Recording, RememberingEncoder
from spacy_elmo.pipeline.listener import Link, connect, link_of
from spacy_elmo.pipeline.mix import mixed_width, scalar_mix
from spacy_elmo.pipeline.rows import Array
from spacy_elmo.pipeline.shim import BiLMShim, shim_of
from spacy_elmo.pipeline.tensor_listeners import ANY, TensorReaders, connection_of, holds_tensor_of_another
from spacy_elmo.pipeline.training import TrainingSession
from spacy_elmo.pipeline.weak import Weak
from spacy_elmo.pipeline.weights import Version, Weights

Vectors = Literal["auto", "hooks", "tensor", "none"]


@dataclass(frozen=True)
class _Ready:
    """Rows that are ready for the listeners of a Doc.

    rows: `[n_tokens, row_width]`; version: of the weights that made them; words: `words_of` the Doc.
    recording: takes the gradients, for its Doc `number`; None if the biLM is not trained on them.
    """

    rows: Array
    version: Version
    words: bytes
    recording: Recording | None = None
    number: int = 0


class Hub:
    """The part of an `elmo` component that its listeners see (`Upstream`) and that spaCy links.

    name: of the component; encoder: gives rows and mixes of Docs; keep_layers, vectors: settings of the component.
    pipelines: the pipelines that are known to contain the component.
    training: the current training, if there is one.
    """

    def __init__(self, name: str, encoder: RememberingEncoder, keep_layers: bool, vectors: Vectors) -> None:
        self.name, self.keep_layers, self.vectors = name, keep_layers, vectors
        self.pipelines: weakref.WeakSet[Language] = weakref.WeakSet()
        self.training: TrainingSession | None = None
        self._encoder = encoder
        self._listener_map: dict[str, list[Model[Any, Any]]] = {}
        self._later_tensor_writer: str | None = None  # a Tok2Vec after the component, which writes doc.tensor later
        # These stay when spaCy empties the map. It then links again, but without the listeners of disabled components.
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()
        self._tensor_readers = TensorReaders()
        self._ready: weakref.WeakKeyDictionary[Doc, _Ready] = weakref.WeakKeyDictionary()
        self._runs: weakref.WeakKeyDictionary[Doc, int] = weakref.WeakKeyDictionary()  # see `Upstream.ran_at`
        self._is_warned_of_tensor = False

    # Who listens

    @property
    def listener_map(self) -> dict[str, list[Model[Any, Any]]]:
        """Listeners by the name of their component. spaCy empties it before it links a pipeline again."""
        return self._listener_map

    @listener_map.setter
    def listener_map(self, value: dict[str, list[Model[Any, Any]]]) -> None:
        self._listener_map, self._later_tensor_writer = value, None

    @property
    def has_elmo_listeners(self) -> bool:
        """Whether there are listeners of ours."""
        return len(self._links) > 0

    @property
    def is_listened_to(self) -> bool:
        """Whether this component has listeners, ours or spaCy's."""
        return self.has_elmo_listeners or bool(self._tensor_readers.of(self.name))

    @property
    def all_layers(self) -> bool:
        """Whether anything needs more than the component's own mix of the layers."""
        return self.keep_layers or self.has_elmo_listeners

    def find_listeners(self, component: Any) -> None:
        """Look at a later component: does it read `doc.tensor`, and does it expect our vectors there?

        Raises:
            ElmoError: `doc.tensor` would have to hold the vectors of two components.
        """
        if isinstance(component, Tok2Vec):
            self._later_tensor_writer = component.name
        if not isinstance(getattr(component, "model", None), Model):
            return
        nodes = list(component.model.walk())
        for node in nodes:
            link = link_of(node)
            if link is not None and link.upstream_name in (self.name, ANY):
                link.makes_docs = isinstance(component, EntityLinker)
                self.add_listener(node, component.name)
        readers = [node for node in nodes if isinstance(node, Tok2VecListener)]
        try:
            for reader in readers:
                self._add_tensor_reader(reader, component)
            self._check_tensor_readers()
        except ElmoError:
            # spaCy has already put the component into its pipeline; other pipelines work as before.
            for reader in readers:
                self.remove_listener(reader, component.name)
                self._tensor_readers.discard(reader)
            raise

    def _add_tensor_reader(self, reader: Tok2VecListener, component: Any) -> None:
        self._tensor_readers.add(reader, component, self.pipelines)
        if reader.upstream_name == self.name:
            self.add_listener(reader, component.name)
            self._refuse_tensor_of(self._later_tensor_writer, "comes between them and writes its own there")

    def _check_tensor_readers(self) -> None:
        if self._tensor_readers.of(self.name):
            any_will_do = f'listens to any component; set its upstream to the name of one, such as "{self.name}"'
            for name in self._tensor_readers.of(ANY).values():
                self._refuse_tensor_of(name, any_will_do)
        elif self.vectors != "tensor":
            return
        for name in self._tensor_readers.of_others(self.name).values():
            self._refuse_tensor_of(name, "listens to another component, which writes its own there")

    def _refuse_tensor_of(self, other: str | None, why: str) -> None:
        """Raise an error if `doc.tensor` would also have to serve another component."""
        if other is None:
            return
        named = self._tensor_readers.of(self.name).values()
        asked_by = ", ".join(sorted(set(named))) or 'the setting vectors = "tensor"'
        raise ElmoError(
            f"{self.name}: doc.tensor has to hold its vectors (for {asked_by}), but {other} {why}. doc.tensor can only "
            "hold the vectors of one component, even if one of the two is disabled. Use a spacy-elmo.ElmoListener.v1 "
            "instead of a spacy.Tok2VecListener.v1: it doesn't need doc.tensor"
        )

    def add_listener(self, listener: Model[Any, Any], component_name: str) -> None:
        """Add a listener of a later component, spaCy's or ours."""
        link = connect(listener, self, component_name)
        if link is not None:
            self._links.add(link)
        elif isinstance(listener, Tok2VecListener):
            tensor_listeners.watch(listener, self, component_name)
        listeners = self.listener_map.setdefault(component_name, [])
        if listener not in listeners:
            listeners.append(listener)

    def remove_listener(self, listener: Model[Any, Any], component_name: str) -> bool:
        """Remove a listener. Return whether it was there."""
        listeners = self.listener_map.get(component_name, [])
        if listener not in listeners:
            return False
        # make a new list: spaCy's replace_listeners is iterating over this one
        self.listener_map[component_name] = [other for other in listeners if other is not listener]
        if not self.listener_map[component_name]:
            del self.listener_map[component_name]
        if (link := link_of(listener)) is not None:
            link.disconnect(self)
            self._links.discard(link)
        elif isinstance(listener, Tok2VecListener):
            if (connection := connection_of(listener)) is not None:
                connection.disconnect(self)
            self._tensor_readers.discard(listener)
        return True

    # Rows that are ready

    @property
    def weights(self) -> Weights:
        """The weights of the biLM. Loads them if necessary."""
        return self._shim.weights

    @property
    def learns(self) -> bool:
        """Whether the biLM is trained with the task."""
        return self._shim.learns

    def read_weights(self) -> BiLMOptions:
        """As `BiLMShim.read_weights`."""
        return self._shim.read_weights()

    def read_identity(self) -> str:
        """As `BiLMShim.read_identity`."""
        return self._shim.read_identity()

    @property
    def _shim(self) -> BiLMShim:
        return shim_of(self._encoder.model)

    def note_run(self, docs: Sequence[Doc]) -> None:
        """Note that the component runs on Docs now, because a listener of two pipelines may ask which one did."""
        if self.is_listened_to:
            self._runs.update(dict.fromkeys(docs, time.monotonic_ns()))

    def ran_at(self, doc: Doc) -> int | None:
        """Return when the component ran on a Doc, as a number that grows; None if it did not."""
        return self._runs.get(doc)

    def missing(self, docs: Iterable[Doc]) -> list[Doc]:
        """Return the Docs that the current biLM has not run on in their current form."""
        version = self.weights.version
        return [doc for doc in docs if not self._is_current(doc, version)]

    def _is_current(self, doc: Doc, version: Version) -> bool:
        ready = self._ready.get(doc)
        return ready is not None and ready.version == version and ready.words == self._words_of(doc)

    def _words_of(self, doc: Doc) -> bytes:
        return words_of(doc, self._encoder.model.attrs["attr"])

    def rows(self, docs: Sequence[Doc], is_train: bool = False) -> list[Array]:
        """Return all layers of Docs, one row per token (see `rows.py`), computed if they are not there yet."""
        missing = self.missing(docs)
        if is_train:
            missing = [doc for doc in missing if not self._take_recorded(doc)]
            self.note_training(docs)
            self.begun_training.same_text.note_training(missing, are_read_now=True)
        if missing:
            self._put(missing, self._encoder.encode(missing, all_layers=True))
        return [self._ready[doc].rows for doc in docs]

    def _take_recorded(self, doc: Doc) -> bool:
        """Use the recording of another Doc with the same text, if there is one."""
        found = None if self.training is None else self.training.find(doc)
        if found is None:
            return False
        recording, number = found
        self._put([doc], [recording.rows[number]], recording, number)
        return True

    def keep_predicted(self, docs: Sequence[Doc], rows: Sequence[Array]) -> None:
        """Keep the rows of annotated Docs ready. A Doc that is being trained on keeps its rows from training."""
        new = [number for number, doc in enumerate(docs) if not self._is_trained_on(doc)]
        self._put([docs[number] for number in new], [rows[number] for number in new])

    def _is_trained_on(self, doc: Doc) -> bool:
        ready = self._ready.get(doc)
        return self.training is not None and ready is not None and self.training.is_learning_from(ready.recording)

    def _put(
        self, docs: Sequence[Doc], rows: Sequence[Array], recording: Recording | None = None, first: int = 0
    ) -> None:
        """Keep rows ready for the listeners.

        recording: takes their gradients; the first Doc is its Doc number `first`.
        """
        version = self.weights.version
        for number, (doc, doc_rows) in enumerate(zip(docs, rows, strict=True), start=first):
            self._ready[doc] = _Ready(doc_rows, version, self._words_of(doc), recording, number)

    def add_gradients(self, docs: Sequence[Doc], gradients: Sequence[Array]) -> None:
        """Take the gradients of a listener for the rows of Docs. They are ignored if the biLM is not trained."""
        for doc, gradient in zip(docs, gradients, strict=True):
            ready = self._ready.get(doc)
            if ready is not None and ready.recording is not None:
                ready.recording.add_gradient(ready.number, gradient)

    # Training

    @property
    def begun_training(self) -> TrainingSession:
        """The current training. Starts one if there is none, for a component that spaCy does not initialize."""
        if self.training is None:
            self.training = TrainingSession(self.name, self._encoder.model)
        return self.training

    def begin_training(self, setter: str | None) -> None:
        """Start over, with the weights as they were loaded; setter: as in `TrainingSession`."""
        shim = self._shim
        if shim.can_forget_learning:
            self.leave_weights()
        shim.forget_learning(self.name)
        self.training = TrainingSession(self.name, self._encoder.model, setter)

    def leave_weights(self) -> None:
        """End the training, because other weights are about to replace those that the listeners were trained with."""
        for connection in self._connections():
            connection.pin()
        self.training = None

    def identify_weights(self) -> None:
        """Compute what the listeners will save of their weights. thinc would only ask for it while their file is open,
        and an error would then leave it cut."""
        for connection in self._connections():
            _ = connection.identity

    def _connections(self) -> Iterator[Connection]:
        yield from self._links
        watched = map(connection_of, self._tensor_readers.of(self.name))
        yield from (connection for connection in watched if connection is not None)

    def note_training(self, docs: Sequence[Doc]) -> None:
        """Note that a listener is trained on these Docs: cache the biLM's output from now on."""
        self.remember()
        self.begun_training.same_text.note_training(docs, are_read_now=False)

    def remember(self) -> None:
        """From now on, cache what a training with the current listeners asks for."""
        self._encoder.remember(self.all_layers)

    def serve(self, docs: list[Doc]) -> None:
        """Run the biLM over a training batch, for all listeners."""
        if not self.is_listened_to:
            return
        self.note_run(docs)
        if self.learns:
            recording = self.begun_training.record(docs)
            self._put(docs, recording.rows, recording)
        elif self.has_elmo_listeners:
            # Now, as in prediction, because a component before the listener may set other sentences.
            self.rows(docs, is_train=True)
        if listeners := list(self._tensor_readers.of(self.name)):
            self._serve_tensor(docs, listeners)

    def _serve_tensor(self, docs: list[Doc], listeners: list[Tok2VecListener]) -> None:
        """Give spaCy's listeners the component's own mix."""
        layers, width = self._encoder.mix.layers, self.mixed_width
        for listener in listeners:
            tensor_listeners.check_width(listener, width, self.name, layers)
        if self.learns or self.all_layers:
            mixed, backprop = scalar_mix(width, layers)(self.rows(docs), is_train=True)
        else:
            mixed, backprop = self._encoder.encode(docs, all_layers=False), None
        hub = Weak(self)  # the listener holds the function below, and the hub holds the listener

        def take_gradients(d_mixed: list[Array]) -> list[Doc]:
            if backprop is not None and (upstream := hub()) is not None:
                upstream.add_gradients(docs, backprop(d_mixed))
            return []

        tensor_listeners.serve(listeners, docs, mixed, take_gradients)

    @property
    def mixed_width(self) -> int:
        """Width of the component's own mix."""
        return mixed_width(self._encoder.mix.layers, self.weights.bilm.options)

    # Which component owns doc.tensor

    def sets_tensor(self, docs: Sequence[Doc]) -> list[bool]:
        """For each Doc, return whether the component may set `doc.tensor`.

        Always, if a listener names the component (linking refuses others that read it). Otherwise not if it holds the
        vectors of another component, or if a listener waits for those of another.
        """
        if self._tensor_readers.of(self.name):
            return [True] * len(docs)
        is_free = [not holds_tensor_of_another(doc) for doc in docs]
        if self.vectors == "tensor" and not all(is_free):
            self._warn_of_tensor()
        is_wanted = self.vectors in ("auto", "tensor") or bool(self._tensor_readers.of(ANY))
        return is_free if is_wanted and not self._tensor_readers.of_others(self.name) else [False] * len(docs)

    def _warn_of_tensor(self) -> None:
        if self._is_warned_of_tensor:
            return
        self._is_warned_of_tensor = True
        warnings.warn(
            f'{self.name}: vectors = "tensor", but doc.tensor already holds the output of {self._writer_before}, for '
            "components that listen to it. elmo does not change it, so token.vector and similarity use that output. "
            f'Set vectors = "auto", which uses hooks, or move {self.name} after the components that listen to the '
            "other",
            stacklevel=2,
        )

    @property
    def _writer_before(self) -> str:
        """The component that has set `doc.tensor`, as far as the pipelines are known."""
        for nlp in self.pipelines:
            before = nlp.pipe_names[: nlp.pipe_names.index(self.name)] if self.name in nlp.pipe_names else []
            for name in before:
                if "doc.tensor" in nlp.get_pipe_meta(name).assigns:
                    return repr(name)
        return "a component before it"

    # Docs and pipelines stay in this process; listeners are copied to other processes.

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "pipelines": None,
            "_ready": None,
            "_runs": None,
            "_links": list(self._links),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.pipelines = weakref.WeakSet()
        self._ready, self._runs = weakref.WeakKeyDictionary(), weakref.WeakKeyDictionary()
        self._links = weakref.WeakSet(state["_links"])
