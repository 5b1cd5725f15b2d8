"""Who listens to an `elmo` component, and what lies ready for which Doc: the middle between it and its listeners.

Listeners of ours ask for rows of all layers by Doc, those of spaCy's read the component's own mix from `doc.tensor`.
"""

import time
import warnings
import weakref
from collections.abc import Iterable, Sequence
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
from spacy_elmo.pipeline.encoder import Recording, RememberingEncoder
from spacy_elmo.pipeline.listener import Link, connect, link_of
from spacy_elmo.pipeline.mix import mixed_width, scalar_mix
from spacy_elmo.pipeline.rows import Array
from spacy_elmo.pipeline.shim import BiLMShim, shim_of
from spacy_elmo.pipeline.tensor_listeners import ANY, TensorReaders, holds_tensor_of_another
from spacy_elmo.pipeline.training import TrainingSession
from spacy_elmo.pipeline.weak import Weak
from spacy_elmo.pipeline.weights import Version, Weights

Vectors = Literal["auto", "hooks", "tensor", "none"]


@dataclass(frozen=True)
class _Ready:
    """What lies ready for the listeners of a Doc.

    rows: `[n_tokens, row_width]`; version: of the weights that made them; words: `words_of` the Doc; when: see
    `Upstream.ran_at`.
    recording: where gradients go, as those of Doc `number`; None where the biLM is not trained by them.
    """

    rows: Array
    version: Version
    words: bytes
    when: int
    recording: Recording | None = None
    number: int = 0


class Hub:
    """The side of an `elmo` component that its listeners see (`Upstream`) and that spaCy links.

    name: of the component; encoder: gives rows and mixes of Docs; keep_layers, vectors: settings of the component.
    pipelines: those that the component is known to be in.
    training: the training that goes on, if one does.
    """

    def __init__(self, name: str, encoder: RememberingEncoder, keep_layers: bool, vectors: Vectors) -> None:
        self.name, self.keep_layers, self.vectors = name, keep_layers, vectors
        self.pipelines: weakref.WeakSet[Language] = weakref.WeakSet()
        self.training: TrainingSession | None = None
        self._encoder = encoder
        self._listener_map: dict[str, list[Model[Any, Any]]] = {}
        self._writer_behind: str | None = None  # a Tok2Vec behind the component, which writes doc.tensor after it
        # They outlive the map, which spaCy empties: without them it links anew while their components are disabled.
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()
        self._tensor_readers = TensorReaders()
        self._ready: weakref.WeakKeyDictionary[Doc, _Ready] = weakref.WeakKeyDictionary()
        self._is_warned_of_tensor = False

    # Who listens

    @property
    def listener_map(self) -> dict[str, list[Model[Any, Any]]]:
        """Listeners by the name of their component. spaCy empties it before it links a pipeline anew."""
        return self._listener_map

    @listener_map.setter
    def listener_map(self, value: dict[str, list[Model[Any, Any]]]) -> None:
        self._listener_map, self._writer_behind = value, None

    @property
    def has_elmo_listeners(self) -> bool:
        """Whether there are listeners of ours."""
        return len(self._links) > 0

    @property
    def is_listened_to(self) -> bool:
        """Whether there are listeners, ours or spaCy's, to this component."""
        return self.has_elmo_listeners or bool(self._tensor_readers.of(self.name))

    @property
    def all_layers(self) -> bool:
        """Whether somebody asks for more than the component's own mix of the layers."""
        return self.keep_layers or self.has_elmo_listeners

    def find_listeners(self, component: Any) -> None:
        """Look at a component further down: does it read `doc.tensor`, and is it ours that it expects there?

        Raises:
            ElmoError: `doc.tensor` would have to hold the vectors of two components.
        """
        if isinstance(component, Tok2Vec):
            self._writer_behind = component.name
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
            # spaCy has put the component into its pipeline already; those of other pipelines go on as before.
            for reader in readers:
                self.remove_listener(reader, component.name)
                self._tensor_readers.discard(reader)
            raise

    def _add_tensor_reader(self, reader: Tok2VecListener, component: Any) -> None:
        self._tensor_readers.add(reader, component, self.pipelines)
        if reader.upstream_name == self.name:
            self.add_listener(reader, component.name)
            self._refuse_tensor_of(self._writer_behind, "stands between them and writes its own there")

    def _check_tensor_readers(self) -> None:
        if self._tensor_readers.of(self.name):
            any_will_do = f'listens to any component; set its upstream to the name of one, "{self.name}" say'
            for name in self._tensor_readers.of(ANY).values():
                self._refuse_tensor_of(name, any_will_do)
        elif self.vectors != "tensor":
            return
        for name in self._tensor_readers.of_others(self.name).values():
            self._refuse_tensor_of(name, "listens to another component, which writes its own there")

    def _refuse_tensor_of(self, other: str | None, why: str) -> None:
        """Raise where there is another component that `doc.tensor` would have to serve as well."""
        if other is None:
            return
        named = self._tensor_readers.of(self.name).values()
        asked_by = ", ".join(sorted(set(named))) or 'the setting vectors = "tensor"'
        raise ElmoError(
            f"{self.name}: doc.tensor is to hold its vectors, as {asked_by} asks, but {other} {why}; doc.tensor can "
            "hold those of one only, also where one of them is disabled. A spacy-elmo.ElmoListener.v1 in place of a "
            "spacy.Tok2VecListener.v1 does without it"
        )

    def add_listener(self, listener: Model[Any, Any], component_name: str) -> None:
        """Note a listener of a component further down, spaCy's or ours."""
        link = connect(listener, self, component_name)
        if link is not None:
            self._links.add(link)
        elif isinstance(listener, Tok2VecListener):
            tensor_listeners.watch(listener, self)
        listeners = self.listener_map.setdefault(component_name, [])
        if listener not in listeners:
            listeners.append(listener)

    def remove_listener(self, listener: Model[Any, Any], component_name: str) -> bool:
        """Drop a listener; says whether it was there."""
        listeners = self.listener_map.get(component_name, [])
        if listener not in listeners:
            return False
        # another list: spaCy's replace_listeners is on its way through this one
        self.listener_map[component_name] = [other for other in listeners if other is not listener]
        if not self.listener_map[component_name]:
            del self.listener_map[component_name]
        link = link_of(listener)
        if link is not None:
            link.disconnect(self)
            self._links.discard(link)
        elif isinstance(listener, Tok2VecListener):
            self._tensor_readers.discard(listener)
        return True

    # What lies ready

    @property
    def weights(self) -> Weights:
        """The weights of the biLM, loaded now if they were not yet."""
        return self._shim.weights

    @property
    def learns(self) -> bool:
        """Whether the biLM is trained with the task."""
        return self._shim.learns

    def read_weights(self) -> BiLMOptions:
        """As `BiLMShim.read_weights`."""
        return self._shim.read_weights()

    @property
    def _shim(self) -> BiLMShim:
        return shim_of(self._encoder.model)

    def ran_at(self, doc: Doc) -> int | None:
        """When the component ran on a Doc, as a number that grows; None where it did not."""
        ready = self._ready.get(doc)
        return None if ready is None else ready.when

    def missing(self, docs: Iterable[Doc]) -> list[Doc]:
        """Those of the Docs that the biLM, as it is now, has not run on, as they are now."""
        version = self.weights.version
        return [doc for doc in docs if not self._is_current(doc, version)]

    def _is_current(self, doc: Doc, version: Version) -> bool:
        ready = self._ready.get(doc)
        return ready is not None and ready.version == version and ready.words == self._words_of(doc)

    def _words_of(self, doc: Doc) -> bytes:
        return words_of(doc, self._encoder.model.attrs["attr"])

    def rows(self, docs: Sequence[Doc], is_train: bool = False) -> list[Array]:
        """All layers of Docs, a row a token (see `rows.py`), computed where they are not there yet."""
        missing = self.missing(docs)
        if is_train:
            missing = [doc for doc in missing if not self._take_recorded(doc)]
            self.note_training(docs)
            self.begun_training.same_text.note_training(missing, are_read_now=True)
        if missing:
            self._put(missing, self._encoder.encode(missing, all_layers=True))
        return [self._ready[doc].rows for doc in docs]

    def _take_recorded(self, doc: Doc) -> bool:
        """Take what was recorded of another Doc with the same text, if there is one."""
        found = None if self.training is None else self.training.find(doc)
        if found is None:
            return False
        recording, number = found
        self._put([doc], [recording.rows[number]], recording, number)
        return True

    def keep_predicted(self, docs: Sequence[Doc], rows: Sequence[Array]) -> None:
        """Have the rows of annotated Docs ready; of one that is being trained on, those of the training stay."""
        new = [number for number, doc in enumerate(docs) if not self._is_trained_on(doc)]
        self._put([docs[number] for number in new], [rows[number] for number in new])

    def _is_trained_on(self, doc: Doc) -> bool:
        ready = self._ready.get(doc)
        return self.training is not None and ready is not None and self.training.is_learning_from(ready.recording)

    def _put(
        self, docs: Sequence[Doc], rows: Sequence[Array], recording: Recording | None = None, first: int = 0
    ) -> None:
        """Have rows ready for the listeners; recording: where their gradients go, those of the first Doc as of Doc
        number `first`."""
        version, now = self.weights.version, time.monotonic_ns()
        for number, (doc, doc_rows) in enumerate(zip(docs, rows, strict=True), start=first):
            self._ready[doc] = _Ready(doc_rows, version, self._words_of(doc), now, recording, number)

    def add_gradients(self, docs: Sequence[Doc], gradients: Sequence[Array]) -> None:
        """Take the gradients of a listener for the rows of Docs; a biLM that is not trained by them ignores them."""
        for doc, gradient in zip(docs, gradients, strict=True):
            ready = self._ready.get(doc)
            if ready is not None and ready.recording is not None:
                ready.recording.add_gradient(ready.number, gradient)

    # Training

    @property
    def begun_training(self) -> TrainingSession:
        """The training that goes on; one begins now where none does (a component that spaCy does not initialize)."""
        if self.training is None:
            self.training = TrainingSession(self.name, self._encoder.model)
        return self.training

    def begin_training(self, setter: str | None) -> None:
        """Begin anew, with the weights as they were loaded; setter: as of `TrainingSession`."""
        shim = self._shim
        if shim.will_be_read_anew:
            self.leave_weights()
        shim.begin_anew(self.name)
        self.training = TrainingSession(self.name, self._encoder.model, setter)

    def leave_weights(self) -> None:
        """Others are about to take the place of those that listeners were trained with: the training ends."""
        for link in self._links:
            link.pin()
        self.training = None

    def note_training(self, docs: Sequence[Doc]) -> None:
        """A listener is trained on these Docs: remember what the biLM gives from now on."""
        self.remember()
        self.begun_training.same_text.note_training(docs, are_read_now=False)

    def remember(self) -> None:
        """From now on remember what a training with the listeners of now asks for."""
        self._encoder.remember(self.all_layers)

    def serve(self, docs: list[Doc]) -> None:
        """Run the biLM over a batch to train on, for all who listen."""
        if not self.is_listened_to:
            return
        if self.learns:
            recording = self.begun_training.record(docs)
            self._put(docs, recording.rows, recording)
        elif self.has_elmo_listeners:
            # Now, as in prediction: a component between it and a listener may set other sentences.
            self.rows(docs, is_train=True)
        if listeners := list(self._tensor_readers.of(self.name)):
            self._serve_tensor(docs, listeners)

    def _serve_tensor(self, docs: list[Doc], listeners: list[Tok2VecListener]) -> None:
        """Give listeners of spaCy's the component's own mix."""
        layers, width = self._encoder.mix.layers, self.mixed_width
        for listener in listeners:
            tensor_listeners.check_width(listener, width, self.name, layers)
        if self.learns or self.all_layers:
            mixed, backprop = scalar_mix(width, layers)(self.rows(docs), is_train=True)
        else:
            mixed, backprop = self._encoder.encode(docs, all_layers=False), None
        hub = Weak(self)  # the listener keeps what follows, and the hub keeps the listener

        def take_gradients(d_mixed: list[Array]) -> list[Doc]:
            if backprop is not None and (upstream := hub()) is not None:
                upstream.add_gradients(docs, backprop(d_mixed))
            return []

        tensor_listeners.serve(listeners, docs, mixed, take_gradients)

    @property
    def mixed_width(self) -> int:
        """Width of the component's own mix."""
        return mixed_width(self._encoder.mix.layers, self.weights.bilm.options)

    # Whose doc.tensor is

    def sets_tensor(self, docs: Sequence[Doc]) -> list[bool]:
        """For each Doc, whether `doc.tensor` is the component's to set.

        For a listener that names the component, always (linking refuses others that read it). Else never where it holds
        the vectors of another component, or where a listener waits for those of another.
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
            f'{self.name}: vectors = "tensor", but doc.tensor holds what {self._writer_before} has put there, for '
            "components that listen to it; it is left alone, so token.vector and similarity answer from that. Set "
            'vectors = "auto", which uses hooks, or move the component behind those that listen to the other',
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

    # Docs and pipelines stay in this process; listeners go along into copies and other processes.

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "pipelines": None,
            "_ready": None,
            "_links": list(self._links),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.pipelines, self._ready = weakref.WeakSet(), weakref.WeakKeyDictionary()
        self._links = weakref.WeakSet(state["_links"])
