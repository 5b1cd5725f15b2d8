"""Docs in, mixed ELMo vectors out, inside another component's model: listeners of `elmo`, and what goes with them.

    ElmoListener    source (rows of the component `elmo`) -> scalar mix
    Tok2Vec         a biLM of its own                     -> scalar mix
    ConcatTok2Vec   one of these beside other features    -> one width -> encoder

Rows go from `elmo` to its listeners by Doc, not by batch: components leave Docs out of a batch, or change their order.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from spacy.tokens import Doc
from thinc.api import Maxout, Model, chain, concatenate, with_array
from thinc.model import deserialize_attr, serialize_attr
from thinc.shims import Shim

from spacy_elmo.errors import ElmoError, WeightsError
from spacy_elmo.pipeline.mix import LEARNED, Layers, mixed_width, scalar_mix
from spacy_elmo.pipeline.processes import NeedsWeights
from spacy_elmo.pipeline.rows import Array
from spacy_elmo.pipeline.shim import Encoder, shim_of
from spacy_elmo.pipeline.upstream import Absences, Upstream
from spacy_elmo.pipeline.weak import Weak
from spacy_elmo.pipeline.weights import TrainedWith

Tok2VecModel = Model[list[Doc], list[Array]]

_SOURCE = "elmo_listener"


def build_listener(
    width: int,
    upstream: str = "elmo",
    mix: Layers = LEARNED,
    dropout: float = 0.0,
    grad_factor: float = 1.0,
    do_layer_norm: bool = False,
    l2_coef: float = 0.0,
    initial_weights: list[float] | None = None,
    initial_gamma: float = 1.0,
) -> Tok2VecModel:
    """Registered as `spacy-elmo.ElmoListener.v1`: the layers of the component `elmo`, mixed for this task.

    width: 2 x projection_dim of the biLM; for the mix "concat", as often as it has layers, the embedding counted.
    upstream: name of the `elmo` component; "*" is any.
    mix: "learned" (`gamma * sum_j softmax(s)_j h_j`, Peters et al. 2018, eq. 1), or one of the fixed ones of
        `elmo`: "mean", "top", "concat", a layer index, a list of weights.
    dropout: on the mixed vectors, while training.
    grad_factor: times which the gradient goes on to a biLM that is fine-tuned (`frozen = false`).
    do_layer_norm: first bring each layer to mean 0 and variance 1 over the tokens of the Doc.
    l2_coef: pull of the learned s_j to 0, that is to equal weights: bilm-tf's `l2_coef * sum(s_j ** 2)`.
    initial_weights: s_j at the start (None: zeros); initial_gamma: gamma at the start.

    Raises:
        ElmoError: a setting is wrong. When it runs: the upstream component is missing, has another width, or not
            the weights that this listener was trained with.
    """
    settings = {
        "dropout": dropout,
        "grad_factor": grad_factor,
        "do_layer_norm": do_layer_norm,
        "l2_coef": l2_coef,
        "initial_weights": initial_weights,
        "initial_gamma": initial_gamma,
    }
    link = Link(upstream, width, mix)
    source: Tok2VecModel = Model(
        _SOURCE, _forward, init=_init, dims={"nO": None}, attrs={"link": link}, shims=[TrainingNote(link)]
    )
    return chain(source, scalar_mix(width, mix, **settings))  # type: ignore[arg-type]


def build_tok2vec(
    bilm: Encoder,
    width: int,
    frozen: bool = True,
    lr_scale: float = 0.1,
    mix: Layers = LEARNED,
    dropout: float = 0.0,
    grad_factor: float = 1.0,
    do_layer_norm: bool = False,
    l2_coef: float = 0.0,
    initial_weights: list[float] | None = None,
    initial_gamma: float = 1.0,
) -> Tok2VecModel:
    """Registered as `spacy-elmo.Tok2Vec.v1`: a biLM of the component's own with its mix, in place of a listener;
    also what `replace_listeners` leaves.

    bilm: `spacy-elmo.BiLM.v1`; frozen: whether its weights stay; lr_scale: times which the learning rate holds for
        them; the other arguments as of the listener. What it gives is not remembered in training.
    """
    shim_of(bilm).set_tuning(not frozen, lr_scale)
    mixed = scalar_mix(
        width,
        mix,
        dropout=dropout,
        grad_factor=grad_factor,
        do_layer_norm=do_layer_norm,
        l2_coef=l2_coef,
        initial_weights=initial_weights,
        initial_gamma=initial_gamma,
    )
    return chain(bilm, mixed)


def build_concat_tok2vec(
    elmo: Tok2VecModel,
    width: int,
    encode: Model[list[Array], list[Array]] | None = None,
    embed: Tok2VecModel | None = None,
    maxout_pieces: int = 3,
) -> Tok2VecModel:
    """Registered as `spacy-elmo.ConcatTok2Vec.v1`: ELMo side by side with other features, brought to one width by a
    maxout layer with layer normalization, in front of an encoder.

    elmo: `spacy-elmo.ElmoListener.v1` or `spacy-elmo.Tok2Vec.v1`.
    width: of what comes out, and of the encoder.
    encode: such as `spacy.MaxoutWindowEncoder.v2` or `spacy.TorchBiLSTMEncoder.v1`; None: nothing behind the maxout.
    embed: such as `spacy.MultiHashEmbed.v2` (with `include_static_vectors` also static ones); None: ELMo alone.

    Raises:
        ElmoError: the encoder has another width.
    """
    if encode is not None and encode.has_dim("nO") and encode.get_dim("nO") != width:
        raise ElmoError(
            f"ConcatTok2Vec: its width is {width}, that of its encoder {encode.get_dim('nO')}; set both to the same"
        )
    features = elmo if embed is None else concatenate(elmo, embed)
    reduce: Model[Any, Any] = with_array(Maxout(nO=width, nP=maxout_pieces, dropout=0.0, normalize=True))
    model: Tok2VecModel = chain(features, reduce) if encode is None else chain(features, reduce, encode)
    model.set_dim("nO", width)  # some ask before they initialize
    return model


class Link(NeedsWeights):
    """A listener's side of its connection with the `elmo` component upstream.

    width: of what `mix` makes of the layers, which the biLM upstream must fit.
    trained_with: the weights that the listener was trained with.
    """

    def __init__(self, upstream_name: str, width: int, mix: Layers) -> None:
        self.upstream_name, self.width, self.mix = upstream_name, width, mix
        self.listener_name = ""
        self.makes_docs = False  # whether its component makes Docs of its own, which nobody can have run on before
        self.trained_with = TrainedWith()
        self.absences = Absences()
        # All that it was connected with, the latest last; a component may be in two pipelines. Weak, so that a pipeline
        # that is dropped is freed at once.
        self._upstreams: list[Weak[Upstream]] = []
        self._fitting: Any = None  # the state of the weights that were found to fit last

    @property
    def upstream(self) -> Upstream | None:
        """The component that it was connected with last, of those that are still there."""
        return self._living[-1] if self._living else None

    @property
    def _living(self) -> list[Upstream]:
        return [upstream for weak in self._upstreams if (upstream := weak()) is not None]

    def connect(self, upstream: Upstream, listener_name: str) -> None:
        """Listen to this component from now on."""
        if self.upstream is not upstream and self.trained_with.learning is None:
            self.pin()  # weights that learn tell by themselves what they have become, and may go on learning
        self.disconnect(upstream)
        self._upstreams.append(Weak(upstream))
        self.listener_name = listener_name

    def disconnect(self, upstream: Upstream) -> None:
        """Listen to this component no longer."""
        self._upstreams = [weak for weak in self._upstreams if weak() not in (None, upstream)]

    def read_weights(self) -> None:
        """Read the weights upstream, which the listener needs also where the component upstream is disabled."""
        if self.upstream is not None:
            self.upstream.read_weights()

    def begin(self) -> None:
        """Forget all training."""
        self.trained_with, self._fitting = TrainedWith(), None

    def pin(self) -> None:
        """Note the weights that are there as those that it was trained with: others are about to take their place."""
        if self.trained_with.is_trained:
            self.trained_with.load(self.identity)

    def load(self, identity: str | None) -> None:
        """Take over a training with the weights of this identity."""
        self.trained_with.load(identity)
        self._fitting = None

    @property
    def identity(self) -> str | None:
        """Of the weights it was trained with, else of those that it listens to."""
        trained_with, upstream = self.trained_with, self.upstream
        if trained_with.identity is not None:
            return trained_with.identity
        weights = trained_with.learning or (upstream and upstream.weights)
        return weights.identity if weights else None

    def get_upstream(self, docs: Sequence[Doc], is_train: bool = False) -> Upstream:
        """The component upstream, if it is there and fits: the one that has run on the Docs, where a listener is
        shared by two pipelines, else the one it was connected with last.

        Raises:
            ElmoError: there is none before the listener in the pipeline, or its vectors have another width.
            WeightsError: its weights are not those that the listener was trained with.
        """
        upstream = self.upstream
        if upstream is None:
            raise ElmoError(
                f"an ElmoListener listens to {self.upstream_name!r}, but no elmo component of that name stands before "
                'it in this pipeline; add it (nlp.add_pipe("elmo", before=...)), do not exclude it when loading, or '
                "set the listener's upstream to its name"
            )
        if len(self._upstreams) > 1:
            upstream = self._that_ran_on(docs) or upstream
        version = upstream.weights.version
        if version != self._fitting:
            self._check(upstream, is_train)
            self._fitting = version
        return upstream

    def _that_ran_on(self, docs: Sequence[Doc]) -> Upstream | None:
        """The one that ran last on these Docs; None where it is not one, or several."""
        living = self._living
        found: dict[int, Upstream] = {}
        for doc in docs:
            ran = [(when, number) for number, hub in enumerate(living) if (when := hub.ran_at(doc)) is not None]
            if ran:
                number = max(ran)[1]
                found[number] = living[number]
        return next(iter(found.values())) if len(found) == 1 else None

    def _check(self, upstream: Upstream, is_train: bool) -> None:
        weights = upstream.weights
        expected = mixed_width(self.mix, weights.bilm.options)
        if self.width != expected:
            raise ElmoError(
                f"{self.listener_name}: the width of its ElmoListener is {self.width}, but the biLM of "
                f"{upstream.name!r} gives vectors of width {expected}; set width = {expected}"
            )
        if is_train and upstream.learns and self.trained_with.fits_before(weights):
            return  # the first batches had nothing for this listener, and the biLM learned from others
        if self.trained_with.is_other_than(weights):
            raise WeightsError(
                f"{self.listener_name}: was trained with other weights than {upstream.name!r} has now (digest "
                f"{str(self.identity)[:12]}… there, {weights.identity[:12]}… here); load the pipeline "
                "with its own elmo, give the component a biLM of its own before elmo is trained further "
                "(replace_listeners), or train the component anew"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> "Link":
        copied = Link(self.upstream_name, self.width, self.mix)
        copied.__dict__.update(self.__dict__)
        copied.trained_with = copy.copy(self.trained_with)
        copied.trained_with.learning = memo.get(id(self.trained_with.learning), self.trained_with.learning)
        copied._upstreams = copy.deepcopy(self._upstreams, memo)
        return copied


class TrainingNote(Shim):
    """Notes that a listener's component is trained, also where the listener itself had nothing to read as yet: thinc
    calls `finish_update` of every part of a component that is trained, and of no other."""

    def __init__(self, link: Link) -> None:
        super().__init__(None)
        self.link = link

    def finish_update(self, optimizer: Any) -> None:
        """The component has been trained on a batch."""
        link, upstream = self.link, self.link.upstream
        if upstream is not None and upstream.learns and link.trained_with.fits_before(upstream.weights):
            link.trained_with.note(upstream.weights, learns=True)

    def to_device(self, device_type: str, device_id: int) -> None:
        """Nothing to bring there."""

    def to_bytes(self) -> bytes:
        """Nothing to keep."""
        return b""

    def from_bytes(self, data: bytes) -> "TrainingNote":
        """Nothing to take over."""
        return self


@serialize_attr.register
def _serialize_link(_: Link, value: Link, name: str, model: Model[Any, Any]) -> bytes:
    return (value.identity or "").encode()


@deserialize_attr.register
def _deserialize_link(_: Link, value: Any, name: str, model: Model[Any, Any]) -> Link:
    link: Link = model.attrs[name]
    link.load(value.decode() or None)
    return link


def connect(node: Model[Any, Any], upstream: Upstream, listener_name: str) -> Link | None:
    """Let a listener's source listen to this component; returns its link, None where the node is another."""
    link = link_of(node)
    if link is not None:
        link.connect(upstream, listener_name)
        for shim in node.shims:
            shim.link = link  # type: ignore[attr-defined] # a copied node's shim still has a link of its own
    return link


def link_of(node: Model[Any, Any]) -> Link | None:
    """The link of a listener's source; None where the node is another."""
    link = node.attrs.get("link") if node.name == _SOURCE else None
    return link if isinstance(link, Link) else None


def _init(model: Tok2VecModel, X: list[Doc] | None = None, Y: Any = None) -> None:  # noqa: N803 (thinc's names)
    link: Link = model.attrs["link"]
    link.begin()
    link.get_upstream(X or [])
    link.absences.expect(X or [])


def _forward(
    model: Tok2VecModel, docs: list[Doc], is_train: bool
) -> tuple[list[Array], Callable[[list[Array]], list[Doc]]]:
    link: Link = model.attrs["link"]
    upstream = link.get_upstream(docs, is_train)
    if is_train:
        link.trained_with.note(upstream.weights, upstream.learns)
    elif not link.makes_docs and (missing := upstream.missing(docs)):
        consequence = "its vectors are computed now, for this component alone"
        link.absences.warn(missing, upstream.name, link.listener_name, consequence)
    rows = upstream.rows(docs, is_train)
    ops: Any = model.ops

    def backprop(d_rows: list[Array]) -> list[Doc]:
        upstream.add_gradients(docs, [ops.to_numpy(d_doc) for d_doc in d_rows])
        return []

    return [ops.asarray(doc_rows) for doc_rows in rows], backprop
