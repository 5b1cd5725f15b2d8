"""The pipeline component `elmo`: runs the biLM over Docs and puts the mixed layers on them."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from spacy import util
from spacy.language import Language
from spacy.pipeline.tok2vec import Tok2VecListener
from spacy.pipeline.trainable_pipe import TrainablePipe
from spacy.tokens import Doc
from spacy.training import Example, validate_examples, validate_get_examples
from spacy.vocab import Vocab
from thinc.api import Model, Optimizer

from spacy_elmo import formats
from spacy_elmo.errors import ElmoError, WeightsError
from spacy_elmo.pipeline.annotations import annotate, stored_vectors
from spacy_elmo.pipeline.cache import Memory, Precision
from spacy_elmo.pipeline.encoder import Encoder, Recording, Reduce, batch_by_tokens, encode_docs, shim_of
from spacy_elmo.pipeline.listener import link_of, make_replaceable
from spacy_elmo.pipeline.mix import FixedMix, Layers, scalar_mix
from spacy_elmo.pipeline.rows import Array, row_width, to_layers, to_rows

Vectors = Literal["auto", "hooks", "tensor", "none"]

# Docs that are worked on together, counted in batches of the biLM: enough to sort sentences by length.
_WINDOW_BATCHES = 8

DEFAULT_MODEL = {
    "@architectures": "spacy-elmo.BiLM.v1",
    "weights": formats.BUNDLED,
    "max_batch_tokens": 4096,
    "max_sequence_length": 1000,
    "device": "auto",
    "precision": "float32",
    "get_spans": {"@misc": "spacy-elmo.sentence_spans.v1"},
}


@Language.factory(
    "elmo",
    assigns=["doc._.elmo", "doc._.elmo_layers", "doc.tensor", "token.vector"],
    default_config={
        "model": DEFAULT_MODEL,
        "frozen": True,
        "layers": "mean",
        "keep_layers": False,
        "vectors": "auto",
        "cache_mb": 1024,
        "cache_path": None,
        "cache_precision": "float32",
        "lr_scale": 0.1,
    },
)
def make_elmo(
    nlp: Language,
    name: str,
    model: Model,  # type: ignore[type-arg]
    frozen: bool,
    layers: str | int | list[float],
    keep_layers: bool,
    vectors: Vectors,
    cache_mb: float,
    cache_path: str | None,
    cache_precision: Precision,
    lr_scale: float,
) -> "ElmoComponent":
    """Make an `elmo` component.

    model: `spacy-elmo.BiLM.v1`.
    frozen: leave the biLM's weights as they are while the pipeline is trained; False: fine-tune them with the task.
    layers: what goes on `token.vector`: "mean", "top", "concat", a layer index or a list of weights.
    keep_layers: also keep all layers on `doc._.elmo_layers`.
    vectors: who answers `token.vector` and `similarity`: "hooks" (ELMo, always), "tensor" (only `doc.tensor`
        is set; spaCy reads it where the vocab has no vectors), "none", or "auto": hooks, and the tensor
        where no other component reads its own from there.
    cache_mb: memory for what the frozen biLM gave for the sentences of a training run, so that each is run through
        it once; 0: none. Plain prediction remembers nothing.
    cache_path: a file to keep that in instead, however much it is; a later run starts warm.
    cache_precision: of the numbers kept there, "float32" or "float16".
    lr_scale: times which the training's learning rate holds for a biLM that is fine-tuned.

    Raises:
        ElmoError: a setting is wrong, or the pipeline has an `elmo` component already.
    """
    for other, component in nlp.components:
        if isinstance(component, ElmoComponent):
            _refuse_second(other, name)
    return ElmoComponent(
        nlp.vocab,
        model,
        name,
        frozen=frozen,
        layers=layers,
        keep_layers=keep_layers,
        vectors=vectors,
        cache_mb=cache_mb,
        cache_path=cache_path,
        cache_precision=cache_precision,
        lr_scale=lr_scale,
    )


@dataclass(frozen=True)
class DocRow:
    """What a Doc's listeners get, `rows` `[n_tokens, row_width]`, with what tells whether it still holds, and where
    their gradients go."""

    rows: Array
    version: tuple[Any, ...]
    recording: Recording | None = None
    number: int = 0


class DocRows(weakref.WeakKeyDictionary[Doc, DocRow]):
    """Rows by Doc, for as long as the Doc lives; they do not leave the process."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return DocRows, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "DocRows":
        return DocRows()


class ElmoComponent(TrainablePipe):
    """Contextual word vectors from a biLM, on `doc._.elmo`, `token.vector` and where listeners find them."""

    def __init__(
        self,
        vocab: Vocab,
        model: Encoder,
        name: str = "elmo",
        *,
        frozen: bool = True,
        layers: Layers = "mean",
        keep_layers: bool = False,
        vectors: Vectors = "auto",
        cache_mb: float = 1024,
        cache_path: str | None = None,
        cache_precision: Precision = "float32",
        lr_scale: float = 0.1,
    ) -> None:
        """Arguments as for the factory, `make_elmo`."""
        for setting, value in (("cache_mb", cache_mb), ("lr_scale", lr_scale)):
            if not value >= 0:
                raise ElmoError(f"{name}: {setting} is {value}, expected at least 0")
        shim = shim_of(model)
        shim.trainable, shim.lr_scale = not frozen, lr_scale
        self.vocab = vocab
        self.model = model
        self.name = name
        self.cfg: dict[str, Any] = {}
        self.mix = FixedMix(layers)
        self.keep_layers = keep_layers
        self.vectors = vectors
        self.memory = Memory(cache_mb, cache_path, cache_precision)
        self.listener_map = {}
        self._rows_of = DocRows()
        self._recordings: list[Recording] = []
        self._deferred: Optimizer | None = None
        self._loss = 0.0
        self._sentences_from: str | None = None
        make_replaceable(model, frozen, layers)

    # Annotating

    def predict(self, docs: Iterable[Doc]) -> list[Array]:
        """Return what `set_annotations` takes of each Doc: its mixed vectors, `[n_tokens, width]`, or, where all
        layers are asked for, its rows, `[n_tokens, row_width]` (see `rows.py`)."""
        self.mix.check(shim_of(self.model).bilm.options.n_outputs)
        return self._encode(list(docs))

    def _encode(self, docs: list[Doc]) -> list[Array]:
        shim = shim_of(self.model)
        what = "rows" if self._gives_rows else f"mix {self.mix.layers}"
        cache = None if shim.learns else self.memory.open((shim.version, what), lambda: f"{shim.digest} {what}")
        reduce: Reduce = to_rows if self._gives_rows else self.mix
        return encode_docs(self.model, docs, reduce, cache)

    @property
    def _gives_rows(self) -> bool:
        """Whether somebody asks for more than the component's own mix of the layers."""
        return self.keep_layers or any(link_of(listener) for listener in self.listeners)

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Array]) -> None:
        """Put what `predict` gave on the Docs."""
        hooks = self.vectors in ("auto", "hooks")
        shim = shim_of(self.model)
        for doc, score in zip(docs, scores, strict=True):
            vectors, layers = score, None
            if self._gives_rows:
                every = to_layers(torch.from_numpy(score), shim.bilm.options.width)
                vectors = self.mix(every).contiguous().numpy()
                layers = every.numpy() if self.keep_layers else None
                self._rows_of[doc] = DocRow(score, self._version)
            annotate(doc, vectors, layers, hooks, self._sets_tensor(doc))

    def _sets_tensor(self, doc: Doc) -> bool:
        """Whether `doc.tensor` is ours to set: always for a listener that names us, never where one names another
        component; for listeners that take any ("*"), unless a component before us has set it."""
        if self._tensor_is_read or self.vectors == "tensor":
            return True
        if self._reader_of_another:
            return False
        if self._any_is_read:
            return doc.tensor.size == 0 or doc.tensor is stored_vectors(doc)
        return self.vectors == "auto"

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Annotate a stream of Docs; of a batch that fails, each Doc is tried alone, so that the error handler
        gets only those at fault."""
        handle_error = self.get_error_handler()
        window = _WINDOW_BATCHES * self.model.attrs["max_batch_tokens"]
        for docs in batch_by_tokens(stream, batch_size, window):
            try:
                self.set_annotations(docs, self.predict(docs))
            except Exception as error:
                if len(docs) == 1:
                    handle_error(self.name, self, docs, error)
                else:
                    yield from (doc for doc in map(self, docs) if doc is not None)
            else:
                yield from docs

    # Linking

    @property
    def listener_map(self) -> dict[str, list[Model]]:  # type: ignore[type-arg]
        """Listeners by the name of their component. spaCy empties it before it links a pipeline anew."""
        return self._listener_map

    @listener_map.setter
    def listener_map(self, value: dict[str, list[Model]]) -> None:  # type: ignore[type-arg]
        self._listener_map = value
        self._reader_of_another: str | None = None
        self._any_is_read = False

    @property
    def listeners(self) -> list[Model]:  # type: ignore[type-arg]
        """Listeners of components further down: ElmoListeners, and listeners of spaCy's that read `doc.tensor`."""
        return [listener for name in self.listening_components for listener in self.listener_map[name]]

    @property
    def listening_components(self) -> list[str]:
        """Names of the components with such listeners."""
        return list(self.listener_map)

    @property
    def _tensor_is_read(self) -> bool:
        return any(isinstance(listener, Tok2VecListener) for listener in self.listeners)

    def add_listener(self, listener: Model, component_name: str) -> None:  # type: ignore[type-arg]
        """Note a listener of a component further down, spaCy's or ours."""
        link = link_of(listener)
        if link is not None:
            link.connect(self, component_name)
        listeners = self.listener_map.setdefault(component_name, [])
        if listener not in listeners:
            listeners.append(listener)

    def remove_listener(self, listener: Model, component_name: str) -> bool:  # type: ignore[type-arg]
        """Drop a listener; says whether it was there."""
        listeners = self.listener_map.get(component_name, [])
        if listener not in listeners:
            return False
        listeners.remove(listener)
        if not listeners:
            del self.listener_map[component_name]
        return True

    def find_listeners(self, component: Any) -> None:
        """Look at a component further down: does it read `doc.tensor`, and is it ours that it expects there?

        Raises:
            ElmoError: the component is a second `elmo`, or `doc.tensor` would have to hold the vectors of two.
        """
        if isinstance(component, ElmoComponent):
            _refuse_second(self.name, component.name)
        if not isinstance(getattr(component, "model", None), Model):
            return
        for node in component.model.walk():
            link = link_of(node)
            if link is not None and link.upstream_name in (self.name, "*"):
                self.add_listener(node, component.name)
            if isinstance(node, Tok2VecListener):
                if node.upstream_name == self.name:
                    self.add_listener(node, component.name)
                elif node.upstream_name == "*":
                    self._any_is_read = True
                else:
                    self._reader_of_another = component.name
        if self._reader_of_another and (self._tensor_is_read or self.vectors == "tensor"):
            asked_by = ", ".join(self.listening_components) or 'the setting vectors = "tensor"'
            raise ElmoError(
                f"{self.name}: doc.tensor is to hold its vectors, as {asked_by} asks, but {self._reader_of_another} "
                "listens to another component, which writes its own there; doc.tensor can hold those of one only. "
                "A spacy-elmo.ElmoListener.v1 in place of a spacy.Tok2VecListener.v1 does without it"
            )

    # What ElmoListeners ask for

    def has_rows(self, doc: Doc) -> bool:
        """Whether the biLM, as it is now, has run on the Doc, as it is now."""
        row = self._rows_of.get(doc)
        return row is not None and row.version == self._version and len(row.rows) == len(doc)

    @property
    def _version(self) -> tuple[Any, ...]:
        """What tells whether rows are those that a listener would get now."""
        shim = shim_of(self.model)
        return (shim.version, self._gives_rows or shim.learns)

    def rows(self, docs: Sequence[Doc], is_train: bool = False) -> list[Array]:
        """All layers of Docs, a row a token (see `rows.py`), computed where they are not there yet."""
        if is_train:
            self.memory.is_on = True
        missing = [doc for doc in docs if not self.has_rows(doc)]
        if missing:
            version = self._version
            for doc, rows in zip(missing, self._encode(missing), strict=True):
                self._rows_of[doc] = DocRow(rows, version)
        return [self._rows_of[doc].rows for doc in docs]

    def add_gradients(self, docs: Sequence[Doc], gradients: Sequence[Array]) -> None:
        """Take the gradients of a listener for the rows of Docs; a biLM that is not trained by them ignores them."""
        for doc, gradient in zip(docs, gradients, strict=True):
            row = self._rows_of.get(doc)
            if row is not None and row.recording is not None:
                row.recording.add_gradient(row.number, gradient)

    # Training

    def initialize(self, get_examples: Callable[[], Iterable[Example]], *, nlp: Language | None = None) -> None:
        """Load the weights, so that what is wrong with them shows before training starts, and tell how much of the
        training text the cache will hold."""
        validate_get_examples(get_examples, "ElmoComponent.initialize")
        self.predict([example.x for example in islice(get_examples(), 1)])
        self._sentences_from = None if nlp is None else _sets_sentences(nlp, self.name)
        if self.listeners and not shim_of(self.model).trainable:
            self._tell_of_memory(get_examples)

    def _tell_of_memory(self, get_examples: Callable[[], Iterable[Example]]) -> None:
        options = shim_of(self.model).bilm.options
        width = row_width(options.n_outputs, options.width) if self._gives_rows else self._mixed_width
        sizes = (len(example.x) for example in get_examples())
        util.logger.info("%s: %s", self.name, self.memory.forecast(sizes, width))

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Run the biLM over a batch, so that the listeners find what they ask for.

        Where it is fine-tuned, its loss is, as that of spaCy's Tok2Vec, the sum of the squares of the gradients that
        the listeners gave for the batch before; frozen, 0.
        """
        losses = {} if losses is None else losses
        examples = list(examples)
        validate_examples(examples, "ElmoComponent.update")
        losses[self.name] = losses.get(self.name, 0.0) + self._catch_up()
        self.memory.is_on = True
        docs = [example.predicted for example in examples]
        self._check_sentences(docs)
        if self.listeners:
            self._record(docs) if shim_of(self.model).learns else self.rows(docs)
            self._serve_tensor_listeners(docs)
        return losses

    def _record(self, docs: list[Doc]) -> None:
        recording = Recording(self.model, docs)
        self._recordings.append(recording)
        for number, (doc, rows) in enumerate(zip(docs, recording.rows, strict=True)):
            self._rows_of[doc] = DocRow(rows, self._version, recording, number)

    def _serve_tensor_listeners(self, docs: list[Doc]) -> None:
        """Give listeners of spaCy's the component's own mix, by the batch, as they want it."""
        listeners = [listener for listener in self.listeners if isinstance(listener, Tok2VecListener)]
        if not listeners:
            return
        mixed, backprop = self.rows(docs), None
        if self._version[1]:  # rows; else they are mixed already
            mixed, backprop = scalar_mix(self._mixed_width, self.mix.layers)(mixed, is_train=True)

        def take_gradients(d_mixed: list[Array]) -> list[Doc]:
            if backprop is not None:
                self.add_gradients(docs, backprop(d_mixed))
            return []

        for listener in listeners:
            listener.receive(Tok2VecListener.get_batch_id(docs), mixed, take_gradients)

    @property
    def _mixed_width(self) -> int:
        options = shim_of(self.model).bilm.options
        return options.width * (options.n_outputs if self.mix.layers == "concat" else 1)

    def _check_sentences(self, docs: list[Doc]) -> None:
        """Warn, once, where the biLM is to read whole Docs in training, but sentences later."""
        told = [doc.has_annotation("SENT_START") for doc in docs if len(doc) > 1]  # of shorter ones it is always said
        if self._sentences_from is None or not told or any(told):
            return
        util.logger.warning(
            "%s: the training docs have no sentence boundaries, so that the biLM reads each as one sentence; in the "
            "trained pipeline %r sets some before it. List %r in [training] annotating_components (from Python: "
            "nlp.update(..., annotates=[%r]))",
            self.name,
            *[self._sentences_from] * 3,
        )
        self._sentences_from = None

    def _catch_up(self) -> float:
        """Take the step that `finish_update` put off; return the loss of what has been learned from."""
        self._backprop()
        if self._deferred is not None:
            shim_of(self.model).finish_update(self._deferred)
            self._deferred = None
        loss, self._loss = self._loss, 0.0
        return loss

    def _backprop(self) -> None:
        recordings, self._recordings = self._recordings, []
        self._loss += sum(recording.backprop() for recording in recordings)

    def finish_update(self, sgd: Optimizer) -> None:
        """Let the optimizer change the weights of a biLM that is fine-tuned.

        `nlp.update` with an optimizer asks for this before the listeners have learned from the batch: then it is
        done at the start of the next update (spaCy's Tok2Vec is a step late there, too).
        """
        if any(not recording.has_gradients for recording in self._recordings):
            self._deferred = sgd
        else:
            self._backprop()
            shim_of(self.model).finish_update(sgd)

    def unfreeze(self, n_top: int | None) -> None:
        """Fine-tune only the `n_top` topmost parts of the biLM from now on: its LSTM layers from above, then the
        character CNN; None: all.

        Raises:
            ElmoError: the component is frozen for good.
        """
        shim = shim_of(self.model)
        if not shim.trainable:
            raise ElmoError(f"{self.name}: frozen = true, so nothing of it can be trained; set frozen = false")
        if n_top != 0:
            self.memory.clear()
        shim.unfreeze(n_top)

    def get_loss(self, examples: Iterable[Example], scores: Any) -> tuple[float, float]:
        """A component without a task of its own has no loss."""
        return 0.0, 0.0

    def add_label(self, label: str) -> int:
        """Always an error: `elmo` has no labels."""
        raise ElmoError(f"{self.name}: vectors have no labels; add {label!r} to the component that predicts it")

    # Serialization

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write settings and weights into a directory. Weights that lie there already are not written again."""
        util.to_disk(path, {"model": self._write_model}, exclude)

    def _write_model(self, path: Path) -> None:
        shim = shim_of(self.model)
        seal = path / "digest"
        if seal.is_file() and seal.read_text() == self._seal(path):
            formats.write_texts(shim.bilm, path)
            return
        seal.unlink(missing_ok=True)
        formats.write(shim.bilm, path, "lossless")
        seal.write_text(self._seal(path))  # last, so that what is half-written is never taken for whole

    def _seal(self, path: Path) -> str:
        """Digest of the biLM, and size of the weights file as it lies there."""
        weights = path / "weights.hdf5"
        return f"{shim_of(self.model).digest} {weights.stat().st_size if weights.is_file() else 0}\n"

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "ElmoComponent":
        """Load what `to_disk` wrote; `model.weights` of the config is not read.

        Raises:
            WeightsError: the weights are missing, damaged, or not those that were saved.
        """
        util.from_disk(path, {"model": self._read_model}, exclude)
        return self

    def _read_model(self, path: Path) -> None:
        shim = shim_of(self.model)
        shim.set(formats.load(path))
        seal = path / "digest"
        if not seal.is_file() or seal.read_text() != self._seal(path):
            raise WeightsError(
                f"{path}: the weights are not those this pipeline was saved with (their digest differs); "
                "save the pipeline again, or restore its files"
            )

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """The weights and settings as bytes."""
        data: bytes = util.to_bytes({"model": self.model.to_bytes}, exclude)
        return data

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> "ElmoComponent":
        """Load what `to_bytes` gave."""
        util.from_bytes(bytes_data, {"model": self.model.from_bytes}, exclude)
        return self


def _refuse_second(one: str, other: str) -> None:
    raise ElmoError(
        f"the pipeline has two elmo components, {one!r} and {other!r}, and both would write doc._.elmo; "
        "remove one, or run the second in a pipeline of its own"
    )


def _sets_sentences(nlp: Language, name: str) -> str | None:
    """The component before `name` that sets sentence boundaries, if any."""
    before = nlp.pipe_names[: nlp.pipe_names.index(name)] if name in nlp.pipe_names else []
    setters = [one for one in before if {"token.is_sent_start", "doc.sents"} & set(nlp.get_pipe_meta(one).assigns)]
    return setters[0] if setters else None
