"""The pipeline component `elmo`: runs the biLM over Docs and puts the mixed layers on them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
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
from spacy_elmo.pipeline.encoder import Array, Encoder, batch_by_tokens, encode_docs, shim_of
from spacy_elmo.pipeline.mix import FixedMix, Layers

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
) -> "ElmoComponent":
    """Make an `elmo` component.

    model: `spacy-elmo.BiLM.v1`.
    frozen: leave the biLM's weights as they are while the pipeline is trained.
    layers: what goes on `token.vector`: "mean", "top", "concat", a layer index or a list of weights.
    keep_layers: also keep all layers on `doc._.elmo_layers`.
    vectors: who answers `token.vector` and `similarity`: "hooks" (ELMo, always), "tensor" (only `doc.tensor`
        is set; spaCy reads it where the vocab has no vectors), "none", or "auto": hooks, and the tensor
        where no other component reads its own from there.

    Raises:
        ElmoError: a setting is wrong, or the pipeline has an `elmo` component already.
    """
    for other, component in nlp.components:
        if isinstance(component, ElmoComponent):
            _refuse_second(other, name)
    return ElmoComponent(nlp.vocab, model, name, frozen=frozen, layers=layers, keep_layers=keep_layers, vectors=vectors)


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
    ) -> None:
        """Arguments as for the factory, `make_elmo`."""
        if not frozen:
            raise ElmoError(f"{name}: frozen = false (fine-tuning the biLM) is not in this version; set frozen = true")
        shim_of(model)
        self.vocab = vocab
        self.model = model
        self.name = name
        self.cfg: dict[str, Any] = {}
        self.mix = FixedMix(layers)
        self.keep_layers = keep_layers
        self.vectors = vectors
        self.listener_map = {}

    # Annotating

    def predict(self, docs: Iterable[Doc]) -> list[Array]:
        """Return the mixed vectors of each Doc, `[n_tokens, width]`; with `keep_layers` all of its layers,
        `[n_layers + 1, n_tokens, layer_width]`."""
        self.mix.check(shim_of(self.model).bilm.options.n_outputs)
        return encode_docs(self.model, list(docs), None if self.keep_layers else self.mix)

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Array]) -> None:
        """Put what `predict` gave on the Docs."""
        hooks = self.vectors in ("auto", "hooks")
        for doc, score in zip(docs, scores, strict=True):
            vectors = self.mix(torch.from_numpy(score)).contiguous().numpy() if self.keep_layers else score
            annotate(doc, vectors, score if self.keep_layers else None, hooks, self._sets_tensor(doc))

    def _sets_tensor(self, doc: Doc) -> bool:
        """Whether `doc.tensor` is ours to set: always for a listener that names us, never where one names another
        component; for listeners that take any ("*"), unless a component before us has set it."""
        if self._is_read or self.vectors == "tensor":
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
        """Listeners that read this component's vectors from `doc.tensor`."""
        return [listener for name in self.listening_components for listener in self.listener_map[name]]

    @property
    def listening_components(self) -> list[str]:
        """Names of the components with such listeners."""
        return list(self.listener_map)

    @property
    def _is_read(self) -> bool:
        return bool(self.listener_map)

    def add_listener(self, listener: Model, component_name: str) -> None:  # type: ignore[type-arg]
        """Note a listener of a component further down."""
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
            if isinstance(node, Tok2VecListener):
                if node.upstream_name == self.name:
                    self.add_listener(node, component.name)
                elif node.upstream_name == "*":
                    self._any_is_read = True
                else:
                    self._reader_of_another = component.name
        if self._reader_of_another and (self._is_read or self.vectors == "tensor"):
            asked_by = ", ".join(self.listening_components) or 'the setting vectors = "tensor"'
            raise ElmoError(
                f"{self.name}: doc.tensor is to hold its vectors, as {asked_by} asks, but {self._reader_of_another} "
                "listens to another component, which writes its own there; doc.tensor can hold those of one only"
            )

    # Training: the biLM is frozen, so there is nothing to learn here

    def initialize(self, get_examples: Callable[[], Iterable[Example]], *, nlp: Language | None = None) -> None:
        """Load the weights, so that what is wrong with them shows before training starts."""
        validate_get_examples(get_examples, "ElmoComponent.initialize")
        self.predict([example.x for example in islice(get_examples(), 1)])

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Leave the frozen biLM as it is; its loss is 0."""
        losses = {} if losses is None else losses
        validate_examples(examples, "ElmoComponent.update")
        losses.setdefault(self.name, 0.0)
        return losses

    def finish_update(self, sgd: Optimizer) -> None:
        """Nothing to update."""

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
