"""The pipeline component `elmo`: runs the biLM over Docs and puts the mixed layers on them."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from spacy import util
from spacy.language import Language
from spacy.pipeline.trainable_pipe import TrainablePipe
from spacy.tokens import Doc
from spacy.training import Example, validate_examples, validate_get_examples
from spacy.vocab import Vocab
from thinc.api import Model, Optimizer

from spacy_elmo import formats
from spacy_elmo.bilm import BiLM
from spacy_elmo.errors import ElmoError, WeightsError
from spacy_elmo.formats import writing
from spacy_elmo.pipeline.advice import Advice, sentence_setters
from spacy_elmo.pipeline.annotations import annotate
from spacy_elmo.pipeline.attributes import check_attr
from spacy_elmo.pipeline.attribution import attribute
from spacy_elmo.pipeline.cache import Memory, Precision
from spacy_elmo.pipeline.encoder import RememberingEncoder, batch_by_tokens
from spacy_elmo.pipeline.hub import Hub, Vectors
from spacy_elmo.pipeline.mix import FixedMix, Layers
from spacy_elmo.pipeline.processes import NeedsWeights
from spacy_elmo.pipeline.replacing import Replacement
from spacy_elmo.pipeline.rows import Array, row_width, to_layers
from spacy_elmo.pipeline.shim import Encoder, shim_of
from spacy_elmo.pipeline.zones import Zones
from spacy_elmo.support import files
from spacy_elmo.support.messages import named
from spacy_elmo.support.paths import path_of, place_of
from spacy_elmo.support.sealed import seal, unseal

# How many batches of the biLM are processed together: enough to sort sentences by length.
_WINDOW_BATCHES = 8

_STAMP = "digest"
_FILES = (*writing.LAYOUT, _STAMP)  # what `to_disk` writes, all or nothing

DEFAULT_MODEL = {
    "@architectures": "spacy-elmo.BiLM.v1",
    "weights": formats.BUNDLED,
    "max_batch_tokens": 4096,
    "max_sequence_length": 1000,
    "device": "auto",
    "precision": "float32",
    "threads": "auto",
    "attr": "ORTH",
    "get_spans": {"@misc": "spacy-elmo.sentence_spans.v1"},
}


@Language.factory(
    "elmo",
    assigns=["doc._.elmo", "doc._.elmo_layers", "doc.tensor", "token.vector"],
    requires=["token.is_sent_start"],  # for nlp.analyze_pipes: without it, elmo reads whole Docs
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
    layers: Any,  # `Layers`, but then spaCy's own check would say "(0.5, 0.5) is not <class 'str'>"
    keep_layers: bool,
    vectors: Vectors,
    cache_mb: float,
    cache_path: str | None,
    cache_precision: Precision,
    lr_scale: float,
    weights: Any = None,  # only here to be refused: spaCy's own error would not say where it belongs
) -> "ElmoComponent":
    """Make an `elmo` component.

    model: `spacy-elmo.BiLM.v1`.
    frozen: True: the biLM's weights don't change while the pipeline is trained; False: fine-tune them with the task.
    layers: what `token.vector` holds: "mean", "top", "concat", a layer index or a list of weights.
    keep_layers: also keep all layers on `doc._.elmo_layers`.
    vectors: where `token.vector` and `similarity` come from:
        - "auto": ELMo, through hooks (functions that spaCy calls for them). `doc.tensor` is also set, unless another
          component has set it or a listener reads the tensor of another one.
        - "hooks": the same, but `doc.tensor` is only set if a listener reads it.
        - "tensor": only `doc.tensor` is set; spaCy reads it if the vocab has no vectors.
        - "none": only the extension attributes.
    cache_mb: memory for the training cache, which keeps the frozen biLM's output for each sentence, so that each is run
        once; 0: no cache. Plain prediction caches nothing.
    cache_path: a file for the training cache instead, of any size; a later run starts warm.
    cache_precision: of the cached numbers, "float32" or "float16".
    lr_scale: during fine-tuning, the biLM's learning rate is `lr_scale` times the training's.
    weights: always None. Set `weights` under `model`. This one is only there so that the mistake gives a clear error.

    Raises:
        ElmoError: a setting is wrong, or the pipeline already has an `elmo` component.
    """
    if weights is not None:
        raise ElmoError(
            f'{name}: weights is a setting of model: write config={{"model": {{"weights": {str(weights)!r}}}}} in '
            f"Python, or set it in [components.{name}.model] of a config"
        )
    for other, component in nlp.components:
        if isinstance(component, ElmoComponent):
            _refuse_second(other, name)
    component = ElmoComponent(
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
    component.hub.pipelines.add(nlp)
    return component


class ElmoComponent(TrainablePipe, NeedsWeights):
    """Contextual word vectors from a biLM, on `doc._.elmo`, on `token.vector` and for listeners.

    hub: knows the listeners and the current training; memory: the training cache of a frozen biLM.
    """

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
        shim_of(model).set_tuning(not frozen, lr_scale)
        self.vocab = vocab
        self.model = model
        self.name = name
        self.cfg: dict[str, Any] = {}
        self.memory = Memory(cache_mb, cache_path, cache_precision)
        self._encoder = RememberingEncoder(model, FixedMix(layers), self.memory)
        self.hub = Hub(name, self._encoder, keep_layers, vectors)
        self._advice = Advice(model.attrs["get_spans"], model.attrs["max_sequence_length"])
        self._replacement = Replacement(name, frozen, lr_scale, self.mix.layers)
        self._replacement.offer(model)
        self._zones = Zones()

    # What it is

    @property
    def mix(self) -> FixedMix:
        """What `token.vector` holds: the setting `layers`."""
        return self._encoder.mix

    @property
    def keep_layers(self) -> bool:
        """Whether all layers are put on `doc._.elmo_layers`."""
        return self.hub.keep_layers

    @keep_layers.setter
    def keep_layers(self, value: bool) -> None:
        self.hub.keep_layers = value

    @property
    def vectors(self) -> Vectors:
        """Where `token.vector` and `similarity` come from."""
        return self.hub.vectors

    @vectors.setter
    def vectors(self, value: Vectors) -> None:
        self.hub.vectors = value

    @property
    def n_layers(self) -> int:
        """Number of layers of the biLM, counting the token embedding. Loads the weights if necessary."""
        return shim_of(self.model).bilm.options.n_outputs

    @property
    def width(self) -> int:
        """Width of `token.vector`, after mixing the layers. Loads the weights if necessary."""
        return self.hub.mixed_width

    def read_weights(self) -> None:
        """Read the weights if they are not in memory, so that errors in them show now. `nlp.pipe` with `n_process`
        calls this before it starts processes.

        Raises:
            ElmoError: they cannot be read (see `formats.load`), or lack a layer that `layers` asks for.
        """
        self.mix.check(shim_of(self.model).read_weights().n_outputs)

    def __repr__(self) -> str:
        shim = shim_of(self.model)
        source = shim.source
        facts = [f"weights={source.path!r}", f"layers={self.mix.layers!r}"]
        if shim.is_loaded:
            facts += [f"n_layers={self.n_layers}", f"width={self.width}", f"engine={shim.bilm.engine!r}"]
        facts += [f"device={source.device!r}", f"precision={source.precision!r}", f"frozen={not shim.trainable}"]
        return f"<{self.name}: {', '.join(facts)}{'' if shim.is_loaded else ', not loaded yet'}>"

    # Annotating

    def predict(self, docs: Iterable[Doc]) -> list[Array]:
        """Return what `set_annotations` needs for each Doc: its mixed vectors, `[n_tokens, width]`, or, if all layers
        are asked for, its rows, `[n_tokens, row_width]` (see `rows.py`)."""
        docs, bilm = list(docs), shim_of(self.model).bilm
        self.mix.check(bilm.options.n_outputs)
        check_attr(docs, self.model.attrs["attr"])
        self._advice.check_language(self.name, self.vocab.lang, bilm.card.get("language"))
        self._advice.check_docs(self.name, docs)
        for nlp in self.hub.pipelines:
            self._advice.check_order(self.name, docs, nlp, self.listening_components)
        return self._encoder.encode(docs, self.hub.all_layers)

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Array]) -> None:
        """Put what `predict` returned on the Docs."""
        hub, hooks = self.hub, self.vectors in ("auto", "hooks")
        docs = list(docs)
        if hub.training is not None:
            hub.training.same_text.check_prediction(docs)
        hub.note_run(docs)
        if hub.all_layers:
            hub.keep_predicted(docs, scores)
        for doc, score, tensor in zip(docs, scores, hub.sets_tensor(docs), strict=True):
            vectors, layers = self._mix_rows(score) if hub.all_layers else (score, None)
            annotate(doc, vectors, layers, hooks, tensor, self.model.attrs["attr"])

    def _mix_rows(self, rows: Array) -> tuple[Array, Array | None]:
        """Return the mixed vectors, and all layers if these are kept."""
        width = shim_of(self.model).bilm.options.width
        layers = to_layers(torch.from_numpy(rows), width).numpy() if self.hub.keep_layers else None
        return self.mix.of_rows(rows, width), layers

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Annotate a stream of Docs. If a batch fails, each of its Docs is tried alone, so the error handler only gets
        the Docs that cause errors."""
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

    def memory_zone(self, mem: Any = None) -> AbstractContextManager[None]:
        """spaCy calls this in `nlp.memory_zone()`.

        Raises:
            ElmoError: another zone of this pipeline is open, in another thread or around this one.
        """
        return self._zones.opened()

    # Listeners: what spaCy expects of a component that others listen to (`spacy.ty.ListenedToComponent`)

    @property
    def listener_map(self) -> dict[str, list[Model[Any, Any]]]:
        """Listeners by the name of their component. spaCy empties it before it links a pipeline again."""
        return self.hub.listener_map

    @listener_map.setter
    def listener_map(self, value: dict[str, list[Model[Any, Any]]]) -> None:
        self.hub.name = self._replacement.name = self.name  # spaCy may have renamed the component just before
        self.hub.listener_map = value

    @property
    def listeners(self) -> list[Model[Any, Any]]:
        """Listeners in later components: ElmoListeners, and spaCy's listeners that read `doc.tensor`."""
        return [listener for listeners in self.listener_map.values() for listener in listeners]

    @property
    def listening_components(self) -> list[str]:
        """Names of the components with such listeners."""
        return list(self.listener_map)

    def add_listener(self, listener: Model[Any, Any], component_name: str) -> None:
        """Add a listener of a later component, spaCy's or ours."""
        self.hub.add_listener(listener, component_name)

    def remove_listener(self, listener: Model[Any, Any], component_name: str) -> bool:
        """Remove a listener. Return whether it was there."""
        return self.hub.remove_listener(listener, component_name)

    def find_listeners(self, component: Any) -> None:
        """Look for listeners in a later component.

        Raises:
            ElmoError: the component is a second `elmo`, or `doc.tensor` would have to hold the vectors of two.
        """
        if isinstance(component, ElmoComponent):
            _refuse_second(self.name, component.name)
        self.hub.find_listeners(component)

    # Training

    def initialize(self, get_examples: Callable[[], Iterable[Example]], *, nlp: Language | None = None) -> None:
        """Load the weights, so that errors in them show before training starts. Print how much of the training text the
        cache will hold."""
        validate_get_examples(get_examples, "ElmoComponent.initialize")
        if nlp is not None:
            self.hub.pipelines.add(nlp)
        self.hub.begin_training(None if nlp is None else _sets_sentences(nlp, self.name))
        self.mix.check(self.n_layers)
        if self.hub.is_listened_to and not shim_of(self.model).trainable:
            self._print_memory_forecast(get_examples)

    def _print_memory_forecast(self, get_examples: Callable[[], Iterable[Example]]) -> None:
        options = shim_of(self.model).bilm.options
        width = row_width(options.n_outputs, options.width) if self.hub.all_layers else self.hub.mixed_width
        sizes = (len(example.x) for example in get_examples())
        # spaCy's logger prints nothing here.
        print(f"ℹ {self.name}: {self.memory.forecast(sizes, width)}", file=sys.stderr)

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Run the biLM over a batch, so that the listeners find their vectors.

        If the biLM is fine-tuned, its loss is the sum of the squares of the gradients that the listeners gave for the
        previous batch, as in spaCy's Tok2Vec. If it is frozen, the loss is 0.
        """
        losses = {} if losses is None else losses
        examples = list(examples)
        validate_examples(examples, "ElmoComponent.update")
        docs = [example.predicted for example in examples]
        check_attr(docs, self.model.attrs["attr"])
        losses[self.name] = losses.get(self.name, 0.0) + self.hub.begun_training.begin_batch(docs)
        self.hub.remember()
        self.hub.serve(docs)
        return losses

    def finish_update(self, sgd: Optimizer) -> None:
        """Let the optimizer change the weights of a biLM that is fine-tuned, once the listeners have learned from the
        batch (see `TrainingSession.finish_update`)."""
        self.hub.begun_training.finish_update(sgd)

    def unfreeze(self, n_top: int | None) -> None:
        """From now on, fine-tune only the `n_top` topmost parts of the biLM: its LSTM layers from the top down, then
        the character CNN; None: all.

        Raises:
            ElmoError: the component has `frozen = true`.
        """
        shim = shim_of(self.model)
        if not shim.trainable:
            raise ElmoError(f"{self.name}: frozen is true, so the biLM cannot be trained; set frozen = false")
        if n_top != 0:
            self.memory.clear()
        shim.unfreeze(n_top)

    def use_params(self, params: Any) -> Iterator[None]:
        """Use other parameters for a while, the averages of an optimizer. A bare generator, as in spaCy."""
        if self.hub.training is not None:
            self.hub.training.backprop()  # the recordings were made with the current parameters
        with self.model.use_params(params):
            yield

    def get_loss(self, examples: Iterable[Example], scores: Any) -> tuple[float, float]:
        """Return zeros: a component without its own task has no loss."""
        return 0.0, 0.0

    def add_label(self, label: str) -> int:
        """Raise an error: `elmo` has no labels."""
        raise ElmoError(f"{self.name}: elmo has no labels; add {label!r} to the component that predicts it")

    # Reading layers by hand

    def rows(self, docs: Sequence[Doc], is_train: bool = False) -> list[Array]:
        """Return all layers of Docs, `[n_tokens, row_width]` each (see `rows.py`), computed if necessary."""
        return self.hub.rows(docs, is_train)

    def missing(self, docs: Iterable[Doc]) -> list[Doc]:
        """Return the Docs that the current biLM has not run on in their current form."""
        return self.hub.missing(docs)

    # Serialization

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write settings and weights into a directory. If the same weights are already there, they are not written
        again. In the folder of a pipeline, `meta.json` and `LICENSES_SOURCES` get the weights' attribution.

        From here to the next update, predictions are not cached.

        Raises:
            ElmoError: the weights cannot be read, or a file cannot be written.
        """
        self.memory.is_on = False
        path, exclude = place_of(path, f"{self.name}: path"), list(exclude)
        self.hub.identify_weights()
        try:
            path.mkdir(parents=True, exist_ok=True)  # the parent of what a link names may be missing, too
            util.to_disk(path, {"model": self._write_model}, exclude)
        except OSError as error:  # of the folder itself
            raise ElmoError(f"{path}: cannot be written ({error})") from error
        if "model" not in exclude:
            try:
                # Now, not when the weights are read: spaCy has just written the pipeline's meta.json, and a component
                # that another pipeline sources does not know its pipeline.
                attribute(path.parent, path.name, shim_of(self.model).bilm.card)
            except OSError as error:
                raise ElmoError(f"{path.parent}: cannot write the attribution of the weights ({error})") from error

    def _write_model(self, path: Path) -> None:
        shim = shim_of(self.model)
        digest = shim.digest  # before a file is opened
        try:
            with files.replacing(path, _FILES) as new:
                if _take_weights(path, new, digest):
                    writing.write_texts(shim.bilm, new)
                else:
                    writing.write_files(shim.bilm, new, "lossless")
                (new / _STAMP).write_bytes(_stamp(new, digest))
        except (OSError, UnicodeEncodeError) as error:  # the latter from a card that was changed in Python
            raise ElmoError(f"{path}: cannot be written ({error}); what was saved there before is unchanged") from error

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "ElmoComponent":
        """Load what `to_disk` wrote; `model.weights` of the config is not read.

        Raises:
            WeightsError: the weights are missing, damaged, or not those that were saved.
        """
        util.from_disk(path_of(path, f"{self.name}: path", WeightsError), {"model": self._read_model}, exclude)
        return self

    def _read_model(self, path: Path) -> None:
        bilm = files.read_whole(path, _FILES, _read_stamped)
        self.hub.leave_weights()
        shim_of(self.model).set(bilm)

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """Return the weights and settings as bytes, with a checksum; see `to_disk`."""
        self.memory.is_on = False
        return seal(util.to_bytes({"model": self.model.to_bytes}, exclude))

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> "ElmoComponent":
        """Load what `to_bytes` returned.

        Raises:
            WeightsError: the bytes are damaged, or hold something else.
        """
        name = f"{self.name}: the bytes to load"
        data = unseal(bytes_data, name)
        self.hub.leave_weights()
        exclude = list(exclude)
        try:
            parts: Any = util.from_bytes(  # type: ignore[func-returns-value]  # its hint says None; it returns the parts
                data, {"model": self.model.from_bytes}, exclude
            )
        except ElmoError:
            raise
        except Exception as error:  # bytes of an earlier version have no checksum: msgpack and thinc raise many kinds
            raise WeightsError(f"{name} hold no elmo component, or are damaged ({named(error)})") from None
        if "model" not in parts and "model" not in exclude:
            raise WeightsError(f"{name} hold no model; if you excluded it from to_bytes, exclude it here, too")
        return self


def _refuse_second(one: str, other: str) -> None:
    """Raise an error: two `elmo` components would overwrite each other's vectors."""
    raise ElmoError(
        f"the pipeline has two elmo components, {one!r} and {other!r}, and both would write doc._.elmo; "
        "remove one, or run the second in its own pipeline"
    )


def _read_stamped(path: Path) -> BiLM:
    bilm = formats.load(path)
    if not _has_weights(path, formats.digest(bilm)):
        raise WeightsError(
            f"{path}: the weights are not those that this pipeline was saved with (their digest differs); "
            "restore its files (copy the folder again), or build and save the pipeline again"
        )
    return bilm


def _take_weights(path: Path, new: Path, digest: str) -> bool:
    """If weights with this digest were saved at `path`, put them into `new`, too. Return whether they are there."""

    def take(place: Path) -> bool:
        (new / writing.WEIGHTS).unlink(missing_ok=True)  # from an earlier attempt
        if not _has_weights(place, digest):
            return False
        try:
            _read_stamped(place)  # the file may have been damaged without a change of its size
        except ElmoError:
            return False
        files.link_or_copy(place / writing.WEIGHTS, new / writing.WEIGHTS)
        return True

    return files.read_whole(path, _FILES, take)  # another process may replace them between the check and the link


def _has_weights(path: Path, digest: str) -> bool:
    """Whether weights with this digest were saved here and are still as they were saved."""
    stamp = path / _STAMP
    return stamp.is_file() and stamp.read_bytes() == _stamp(path, digest)


def _stamp(path: Path, digest: str) -> bytes:
    """Return the digest of the biLM, and the size of the weights file."""
    weights = path / writing.WEIGHTS
    return f"{digest} {weights.stat().st_size if weights.is_file() else 0}\n".encode()


def _sets_sentences(nlp: Language, name: str) -> str | None:
    """Return the component before `name` that sets sentence boundaries, if any."""
    before = nlp.pipe_names[: nlp.pipe_names.index(name)] if name in nlp.pipe_names else []
    return next(iter(sentence_setters(nlp, before)), None)
