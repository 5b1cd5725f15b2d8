"""Docs in, mixed ELMo vectors out, inside another component's model: the listeners of `elmo` and related layers.

    ElmoListener    source (rows of the component `elmo`) -> scalar mix
    Tok2Vec         its own biLM                          -> scalar mix
    ConcatTok2Vec   one of these and other features       -> one width -> encoder

Rows go from `elmo` to its listeners by Doc, not by batch, because components leave Docs out of a batch or change their
order.
"""

from collections.abc import Callable, Sequence
from typing import Any

from spacy.tokens import Doc
from thinc.api import Maxout, Model, chain, concatenate, with_array
from thinc.model import deserialize_attr, serialize_attr
from thinc.shims import Shim

from spacy_elmo.bilm import BiLMOptions
from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline.connection import Connection
from spacy_elmo.pipeline.mix import LEARNED, FixedMix, Layers, mixed_width, scalar_mix
from spacy_elmo.pipeline.rows import Array
from spacy_elmo.pipeline.shim import Encoder, shim_of
from spacy_elmo.pipeline.upstream import Upstream

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

    width: 2 x projection_dim of the biLM; for the mix "concat", this times the number of layers, counting the
        embedding.
    upstream: name of the `elmo` component; "*" is any.
    mix: "learned" (`gamma * sum_j softmax(s)_j h_j`, Peters et al. 2018, eq. 1), or one of the fixed mixes of `elmo`:
        "mean", "top", "concat", a layer index, a list of weights.
    dropout: on the mixed vectors, during training.
    grad_factor: factor of the gradient that goes on to a biLM that is fine-tuned (`frozen = false`).
    do_layer_norm: first normalize each layer to mean 0 and variance 1 over the tokens of the Doc.
    l2_coef: pulls the learned s_j to 0, which means equal weights: bilm-tf's `l2_coef * sum(s_j ** 2)`.
    initial_weights: s_j at the start (None: zeros); initial_gamma: gamma at the start.

    Raises:
        ElmoError: a setting is wrong. When it runs: the upstream component is missing, has another width, or other
            weights than those that this listener was trained with.
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
    """Registered as `spacy-elmo.Tok2Vec.v1`: the component's own biLM with its mix, instead of a listener.
    `replace_listeners` also leaves this. `width`, `mix` and the arguments after it are those of
    `spacy-elmo.ElmoListener.v1`.

    bilm: `spacy-elmo.BiLM.v1`. Its output is not cached in training.
    frozen: True: the biLM's weights don't change in training; False: fine-tune them with the task.
    lr_scale: during fine-tuning, the biLM's learning rate is `lr_scale` times the training's.
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
    """Registered as `spacy-elmo.ConcatTok2Vec.v1`: ELMo concatenated with other features, reduced to one width by a
    maxout layer with layer normalization, before an encoder.

    elmo: `spacy-elmo.ElmoListener.v1` or `spacy-elmo.Tok2Vec.v1`.
    width: of the output and of the encoder.
    encode: such as `spacy.MaxoutWindowEncoder.v2` or `spacy.TorchBiLSTMEncoder.v1`; None: nothing after the maxout.
    embed: such as `spacy.MultiHashEmbed.v2` (with `include_static_vectors`, also static vectors); None: only ELMo.

    Raises:
        ElmoError: the encoder has another width.
    """
    if encode is not None and encode.has_dim("nO") and encode.get_dim("nO") != width:
        raise ElmoError(
            f"ConcatTok2Vec: its width is {width}, but its encoder's width is {encode.get_dim('nO')}; set both to the "
            "same"
        )
    features = elmo if embed is None else concatenate(elmo, embed)
    reduce: Model[Any, Any] = with_array(Maxout(nO=width, nP=maxout_pieces, dropout=0.0, normalize=True))
    model: Tok2VecModel = chain(features, reduce) if encode is None else chain(features, reduce, encode)
    model.set_dim("nO", width)  # some callers read it before initialization
    return model


class Link(Connection):
    """The connection of an ElmoListener.

    width: of the output of `mix`, which the biLM upstream must fit.
    """

    def __init__(self, upstream_name: str, width: int, mix: Layers) -> None:
        super().__init__()
        self.upstream_name, self.width, self.mix = upstream_name, width, mix
        self.makes_docs = False  # whether its component makes its own Docs, which no component has run on before

    def read_weights(self) -> None:
        """Read the weights upstream, which the listener also needs if the component upstream is disabled.

        Raises:
            ElmoError: as `get_upstream`.
        """
        if self.upstream is None:
            raise self._without_upstream()
        super().read_weights()

    def get_upstream(self, docs: Sequence[Doc], is_train: bool = False) -> Upstream:
        """Return `upstream_of` the Docs, if it exists and fits.

        Raises:
            ElmoError: there is none before the listener in the pipeline, or its vectors have another width.
            WeightsError: its weights are not those that the listener was trained with.
        """
        upstream = self.upstream_of(docs)
        if upstream is None:
            raise self._without_upstream()
        self.check(upstream, is_train)
        return upstream

    def _without_upstream(self) -> ElmoError:
        return ElmoError(
            f"an ElmoListener listens to {self.upstream_name!r}, but no elmo component of that name comes before "
            'it in this pipeline. Add one (nlp.add_pipe("elmo", before=...)), do not exclude it when you load the '
            "pipeline, or set the listener's upstream to its name"
        )

    def check_mix(self, upstream_name: str, options: BiLMOptions) -> None:
        """Raise an ElmoError if the vectors of the component upstream have another width than the listener's, or lack a
        layer of its mix."""
        expected = mixed_width(self.mix, options)
        if self.width != expected:
            raise ElmoError(
                f"{self.listener_name}: the width of its ElmoListener is {self.width}, but the biLM of "
                f"{upstream_name!r} gives vectors of width {expected}; set width = {expected}"
            )
        if self.mix != LEARNED:
            FixedMix(self.mix).check(options.n_outputs, "mix")


class TrainingNote(Shim):
    """Notes that a listener's component is trained, even if the listener itself has not read anything yet. thinc calls
    `finish_update` for every part of a component that is trained, and for no other."""

    def __init__(self, link: Link) -> None:
        super().__init__(None)
        self.link = link

    def finish_update(self, optimizer: Any) -> None:
        """Note that the component was trained on a batch."""
        link, upstream = self.link, self.link.upstream
        if upstream is not None and upstream.learns and link.trained_with.fits_before(upstream.weights):
            link.trained_with.note(upstream.weights, learns=True)

    def to_device(self, device_type: str, device_id: int) -> None:
        """Do nothing: there is nothing to move."""

    def to_bytes(self) -> bytes:
        """Return nothing: there is nothing to save."""
        return b""

    def from_bytes(self, data: bytes) -> "TrainingNote":
        """Do nothing: there is nothing to load."""
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
    """Make a listener's source listen to this component. Return its link; None if the node is not such a source."""
    link = link_of(node)
    if link is not None:
        link.connect(upstream, listener_name)
        for shim in node.shims:
            shim.link = link  # type: ignore[attr-defined] # a copied node's shim still has its own link
    return link


def link_of(node: Model[Any, Any]) -> Link | None:
    """Return the link of a listener's source; None if the node is not such a source."""
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
