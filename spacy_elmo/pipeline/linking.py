"""The side of `elmo` that other components listen to: who listens, what they are given, where their gradients go."""

import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar

from spacy import util
from spacy.pipeline.entity_linker import EntityLinker
from spacy.pipeline.tok2vec import Tok2Vec, Tok2VecListener
from spacy.pipeline.trainable_pipe import TrainablePipe
from spacy.tokens import Doc
from thinc.api import Model

from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline.cache import Memory
from spacy_elmo.pipeline.doc_rows import ROWS, DocRows, words_of
from spacy_elmo.pipeline.encoder import Recording, Reduce, encode_docs
from spacy_elmo.pipeline.listener import Link, connect, link_of, watch
from spacy_elmo.pipeline.mix import FixedMix, mixed_width, scalar_mix
from spacy_elmo.pipeline.rows import Array, to_rows
from spacy_elmo.pipeline.same_text import SameText
from spacy_elmo.pipeline.shim import Encoder, shim_of

T = TypeVar("T")
Vectors = Literal["auto", "hooks", "tensor", "none"]


class Pending(list[Recording]):
    """Recordings to learn from; they do not go along into copies or other processes."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Pending, ()


class Remembered(weakref.WeakSet[T]):
    """Listeners, or their links, for as long as these live; they go along into other processes."""

    def __reduce__(self) -> tuple[type, tuple[list[T]]]:
        return Remembered, (list(self),)


class ListenedTo(TrainablePipe):
    """What `ElmoComponent` is to its listeners: ElmoListeners, which ask for rows of all layers by Doc, and listeners
    of spaCy's, which read the component's own mix from `doc.tensor`."""

    name: str
    model: Encoder
    mix: FixedMix
    keep_layers: bool
    vectors: Vectors
    memory: Memory

    def __init__(self) -> None:
        self.listener_map = {}
        # They outlive the map: spaCy links anew, and without them, while their components are disabled.
        self._links = Remembered[Link]()
        self._tensor_listeners = Remembered[Tok2VecListener]()
        self._recordings = Pending()
        self._is_learning = False
        self._is_warned_of_gradients = False
        self._same_text = SameText(self.name, self.model.attrs["get_spans"])

    # Linking

    @property
    def listener_map(self) -> dict[str, list[Model]]:  # type: ignore[type-arg]
        """Listeners by the name of their component. spaCy empties it before it links a pipeline anew."""
        return self._listener_map

    @listener_map.setter
    def listener_map(self, value: dict[str, list[Model]]) -> None:  # type: ignore[type-arg]
        self._listener_map = value
        self._reader_of_another: str | None = None
        self._reader_of_any: str | None = None
        self._writer_behind: str | None = None  # a Tok2Vec, which writes doc.tensor after us

    @property
    def listeners(self) -> list[Model]:  # type: ignore[type-arg]
        """Listeners of components further down: ElmoListeners, and listeners of spaCy's that read `doc.tensor`."""
        return [listener for name in self.listening_components for listener in self.listener_map[name]]

    @property
    def listening_components(self) -> list[str]:
        """Names of the components with such listeners."""
        return list(self.listener_map)

    @property
    def _tensor_is_linked(self) -> bool:
        return any(isinstance(listener, Tok2VecListener) for listener in self.listeners)

    @property
    def _tensor_is_read(self) -> bool:
        """Also by components that were disabled when the pipeline was linked."""
        return len(self._tensor_listeners) > 0

    def add_listener(self, listener: Model, component_name: str) -> None:  # type: ignore[type-arg]
        """Note a listener of a component further down, spaCy's or ours."""
        link = connect(listener, self, component_name)
        if link is not None:
            self._links.add(link)
        elif isinstance(listener, Tok2VecListener):
            watch(listener, self)
            self._tensor_listeners.add(listener)
        listeners = self.listener_map.setdefault(component_name, [])
        if listener not in listeners:
            listeners.append(listener)

    def knows(self, link: Link) -> bool:
        """Whether this is the link of one of its listeners."""
        return link in self._links

    def remove_listener(self, listener: Model, component_name: str) -> bool:  # type: ignore[type-arg]
        """Drop a listener; says whether it was there."""
        listeners = self.listener_map.get(component_name, [])
        if listener not in listeners:
            return False
        # another list: spaCy's replace_listeners is on its way through this one
        self.listener_map[component_name] = [one for one in listeners if one is not listener]
        if not self.listener_map[component_name]:
            del self.listener_map[component_name]
        link = link_of(listener)
        if link is not None:
            link.disconnect()
            self._links.discard(link)
        elif isinstance(listener, Tok2VecListener):
            self._tensor_listeners.discard(listener)
        return True

    def find_listeners(self, component: Any) -> None:
        """Look at a component further down: does it read `doc.tensor`, and is it ours that it expects there?

        Raises:
            ElmoError: the component is a second `elmo`, or `doc.tensor` would have to hold the vectors of two.
        """
        if isinstance(component, ListenedTo):
            refuse_second(self.name, component.name)
        if isinstance(component, Tok2Vec):
            self._writer_behind = component.name
        if not isinstance(getattr(component, "model", None), Model):
            return
        for node in component.model.walk():
            link = link_of(node)
            if link is not None and link.upstream_name in (self.name, "*"):
                link.makes_docs = isinstance(component, EntityLinker)
                self.add_listener(node, component.name)
            if isinstance(node, Tok2VecListener):
                if node.upstream_name == self.name:
                    self.add_listener(node, component.name)
                    self._refuse_tensor_of(self._writer_behind, "stands between them and writes its own there")
                elif node.upstream_name == "*":
                    self._reader_of_any = component.name
                else:
                    self._reader_of_another = component.name
        if self._tensor_is_linked or self.vectors == "tensor":
            self._refuse_tensor_of(self._reader_of_another, "listens to another component, which writes its own there")
        if self._tensor_is_linked:
            self._refuse_tensor_of(
                self._reader_of_any, f'listens to any component; set its upstream to the name of one, "{self.name}" say'
            )

    def _refuse_tensor_of(self, other: str | None, why: str) -> None:
        """Raise where there is another component that `doc.tensor` would have to serve as well."""
        if other is None:
            return
        asked_by = ", ".join(self.listening_components) or 'the setting vectors = "tensor"'
        raise ElmoError(
            f"{self.name}: doc.tensor is to hold its vectors, as {asked_by} asks, but {other} {why}; doc.tensor can "
            "hold those of one only. A spacy-elmo.ElmoListener.v1 in place of a spacy.Tok2VecListener.v1 does without "
            "it"
        )

    # What ElmoListeners ask for

    def missing(self, docs: Iterable[Doc]) -> list[Doc]:
        """Those of the Docs that the biLM, as it is now, has not run on, as they are now."""
        version = self._version
        return [doc for doc in docs if not self._is_current(doc, version)]

    def _is_current(self, doc: Doc, version: Any) -> bool:
        there = ROWS.get(doc)
        return there is not None and (there.maker, there.version, there.words) == (self, version, words_of(doc))

    @property
    def _version(self) -> tuple[int, ...]:
        return shim_of(self.model).version

    def rows(self, docs: Sequence[Doc], is_train: bool = False) -> list[Array]:
        """All layers of Docs, a row a token (see `rows.py`), computed where they are not there yet."""
        missing = [doc for doc in self.missing(docs) if not (is_train and self._take_twin(doc))]
        if is_train:
            self.note_training(docs)
            self._same_text.note_training(missing, are_read_now=True)
        if missing:
            self._keep(missing, self._encode(missing, all_layers=True))
        return [ROWS[doc].rows for doc in docs]

    def note_training(self, docs: Sequence[Doc]) -> None:
        """A listener is trained on these Docs: remember what the biLM gives from now on."""
        self._remember()
        self._same_text.note_training(docs, are_read_now=False)

    def _take_twin(self, doc: Doc) -> bool:
        """Take what was recorded of a Doc with the same text, if there is one: some components train on copies."""
        for recording in self._recordings:
            if (number := recording.find(doc)) is not None:
                ROWS[doc] = DocRows(recording.rows[number], self, self._version, words_of(doc), recording, number)
                return True
        if self._recordings and not all(token.is_space for token in doc):
            self._warn_of_lost_gradients()
        return False

    def _warn_of_lost_gradients(self) -> None:
        if not self._is_warned_of_gradients:
            self._is_warned_of_gradients = True
            util.logger.warning(
                "%s: a component that listens to it trains on Docs of other text than the batch that it was given; "
                "what it learns there does not reach the biLM",
                self.name,
            )

    def _keep(self, docs: Sequence[Doc], rows: Sequence[Array], recording: Recording | None = None) -> None:
        """Have rows ready for the listeners, with where their gradients go."""
        version = self._version
        for number, (doc, one) in enumerate(zip(docs, rows, strict=True)):
            ROWS[doc] = DocRows(one, self, version, words_of(doc), recording, number)

    def add_gradients(self, docs: Sequence[Doc], gradients: Sequence[Array]) -> None:
        """Take the gradients of a listener for the rows of Docs; a biLM that is not trained by them ignores them."""
        for doc, gradient in zip(docs, gradients, strict=True):
            there = ROWS.get(doc)
            if there is not None and there.maker is self and there.recording is not None:
                there.recording.add_gradient(there.number, gradient)

    # What listeners are given

    def _encode(self, docs: list[Doc], all_layers: bool) -> list[Array]:
        """Rows of all layers, or the component's own mix of them."""
        shim = shim_of(self.model)
        header = {"biLM": lambda: shim.digest, "precision of the biLM": lambda: shim.precision}
        content = self._content(all_layers)
        cache = None if self._is_learning else self.memory.open(content, shim.version, header)
        reduce: Reduce = to_rows if all_layers else self.mix
        return encode_docs(self.model, docs, reduce, cache)

    def _content(self, all_layers: bool) -> str:
        return "rows" if all_layers else f"mix {self.mix.layers}"

    def _remember(self) -> None:
        """From now on remember what a training with the listeners of now asks for."""
        self.memory.turn_on(self._content(self._gives_rows))

    @property
    def _has_elmo_listeners(self) -> bool:
        return len(self._links) > 0

    @property
    def _gives_rows(self) -> bool:
        """Whether somebody asks for more than the component's own mix of the layers."""
        return self.keep_layers or self._has_elmo_listeners

    @property
    def _is_listened_to(self) -> bool:
        return self._has_elmo_listeners or self._tensor_is_read

    def _serve(self, docs: list[Doc]) -> None:
        """Run the biLM over a batch to train on, for all who listen."""
        if self._is_listened_to:
            if shim_of(self.model).learns:
                self._record(docs)
            else:
                self._is_learning = False
                if self._has_elmo_listeners:
                    # Now, as in prediction: a component between it and a listener may set other sentences.
                    self.rows(docs, is_train=True)
            self._serve_tensor_listeners(docs)

    def _keep_predicted(self, docs: Sequence[Doc], rows: Sequence[Array]) -> None:
        """Have rows ready of Docs that were predicted; of one that is being trained on, those of the training stay."""
        new = [
            (doc, one)
            for doc, one in zip(docs, rows, strict=True)
            if (there := ROWS.get(doc)) is None or there.recording not in self._recordings
        ]
        self._keep([doc for doc, _ in new], [one for _, one in new])

    def _record(self, docs: list[Doc]) -> None:
        self._is_learning = True
        recording = Recording(self.model, docs)
        self._recordings.append(recording)
        self._keep(docs, recording.rows, recording)

    def _serve_tensor_listeners(self, docs: list[Doc]) -> None:
        """Give listeners of spaCy's the component's own mix, by the batch, as they want it."""
        if not self._tensor_is_read:
            return
        listeners = list(self._tensor_listeners)
        if shim_of(self.model).learns or self._gives_rows:
            mixed, backprop = scalar_mix(self._mixed_width, self.mix.layers)(self.rows(docs), is_train=True)
        else:
            mixed, backprop = self._encode(docs, all_layers=False), None

        for listener in listeners:
            self._check_width(listener)

        def take_gradients(d_mixed: list[Array]) -> list[Doc]:
            if backprop is not None:
                self.add_gradients(docs, backprop(d_mixed))
            return []

        for listener in listeners:
            listener.receive(Tok2VecListener.get_batch_id(docs), mixed, take_gradients)

    def _check_width(self, listener: Tok2VecListener) -> None:
        if listener.has_dim("nO") and (width := listener.get_dim("nO")) != self._mixed_width:
            raise ElmoError(
                f"{self.name}: the width of a spacy.Tok2VecListener.v1 is {width}, but the mix that it listens to "
                f"(layers = {self.mix.layers!r}) has vectors of width {self._mixed_width}; set width = "
                f"{self._mixed_width}"
            )

    @property
    def _mixed_width(self) -> int:
        return mixed_width(self.mix.layers, shim_of(self.model).bilm.options)


def refuse_second(one: str, other: str) -> None:
    """Raise: two `elmo` components would overwrite each other's vectors."""
    raise ElmoError(
        f"the pipeline has two elmo components, {one!r} and {other!r}, and both would write doc._.elmo; "
        "remove one, or run the second in a pipeline of its own"
    )
