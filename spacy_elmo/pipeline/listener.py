"""Docs in, mixed ELMo vectors out, inside another component's model: listeners of `elmo`, and what goes with them.

    ElmoListener    source (rows of the component `elmo`) -> scalar mix
    Tok2Vec         a biLM of its own                     -> scalar mix
    ConcatTok2Vec   one of these beside other features    -> one width -> encoder

Rows go from `elmo` to its listeners by Doc, not by batch: components leave Docs out of a batch, or change their order.
"""

import functools
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from spacy.pipeline.tok2vec import Tok2VecListener
from spacy.tokens import Doc
from thinc.api import Maxout, Model, chain, concatenate, with_array
from thinc.model import deserialize_attr, serialize_attr

from spacy_elmo.errors import ElmoError, WeightsError
from spacy_elmo.pipeline.encoder import Encoder, shim_of
from spacy_elmo.pipeline.mix import LEARNED, Layers, scalar_mix
from spacy_elmo.pipeline.rows import Array

if TYPE_CHECKING:
    from spacy_elmo.pipeline.component import ElmoComponent

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
    source: Tok2VecModel = Model(
        _SOURCE, _forward, init=_init, dims={"nO": None}, attrs={"link": Link(upstream, width, mix == "concat")}
    )
    return chain(source, scalar_mix(width, mix, **settings))  # type: ignore[arg-type]


def build_tok2vec(
    bilm: Encoder,
    width: int,
    frozen: bool = True,
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

    bilm: `spacy-elmo.BiLM.v1`; frozen: whether its weights stay; the other arguments as of the listener.
    """
    shim_of(bilm).trainable = not frozen
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
    dropout: float = 0.0,
) -> Tok2VecModel:
    """Registered as `spacy-elmo.ConcatTok2Vec.v1`: ELMo side by side with other features, brought to one width by a
    maxout layer with layer normalization, in front of an encoder.

    elmo: `spacy-elmo.ElmoListener.v1` or `spacy-elmo.Tok2Vec.v1`.
    width: of what comes out, and of the encoder.
    encode: such as `spacy.MaxoutWindowEncoder.v2` or `spacy.TorchBiLSTMEncoder.v1`; None: nothing behind the maxout.
    embed: such as `spacy.MultiHashEmbed.v2` (with `include_static_vectors` also static ones); None: ELMo alone.
    dropout: of the maxout layer, until the training's own setting takes its place.
    """
    features = elmo if embed is None else concatenate(elmo, embed)
    reduce: Model[Any, Any] = with_array(Maxout(nO=width, nP=maxout_pieces, dropout=dropout, normalize=True))
    return chain(features, reduce) if encode is None else chain(features, reduce, encode)


class Link:
    """A listener's side of its connection with the `elmo` component upstream.

    width: that the layers must have; of all of them together where they are put side by side.
    """

    def __init__(self, upstream_name: str, width: int, concat: bool = False) -> None:
        self.upstream_name, self.width, self.concat = upstream_name, width, concat
        self.upstream: ElmoComponent | None = None
        self.listener_name = ""
        self.trained_with: str | None = None  # digest of the biLM, in a listener that was loaded
        self._checked: Any = None
        self._inferring: list[Doc] = []

    def connect(self, upstream: "ElmoComponent", listener_name: str) -> None:
        """Listen to this component from now on."""
        self.upstream, self.listener_name = upstream, listener_name

    def disconnect(self) -> None:
        """Listen to nobody."""
        self.upstream = None

    def get_upstream(self) -> "ElmoComponent":
        """The component upstream, if it is there and fits.

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
        version = shim_of(upstream.model).version
        if version != self._checked:
            self._check(upstream)
            self._checked = version
        return upstream

    def _check(self, upstream: "ElmoComponent") -> None:
        shim = shim_of(upstream.model)
        options = shim.bilm.options
        expected = options.width * (options.n_outputs if self.concat else 1)
        if self.width != expected:
            raise ElmoError(
                f"{self.listener_name}: the width of its ElmoListener is {self.width}, but the biLM of "
                f"{upstream.name!r} gives vectors of width {expected}; set width = {expected}"
            )
        if self.trained_with is not None and self.trained_with != shim.digest:
            raise WeightsError(
                f"{self.listener_name}: was trained with other weights than {upstream.name!r} has now (digest "
                f"{self.trained_with[:12]}… there, {shim.digest[:12]}… here); load the pipeline with its own elmo, or "
                "train the component anew"
            )

    @property
    def digest(self) -> str | None:
        """Of the biLM it listens to, else of the one it was trained with."""
        return self.trained_with if self.upstream is None else shim_of(self.upstream.model).digest

    def infer(self, docs: Sequence[Doc]) -> None:
        """Note Docs that are given only to learn about shapes: nobody has annotated them, and that is all right."""
        self._inferring = list(docs)

    def warn_of_absence(self, docs: Sequence[Doc]) -> None:
        """Tell that upstream has not run on Docs that a component is to annotate."""
        expected = {id(doc) for doc in self._inferring}
        if all(id(doc) in expected for doc in docs):
            return
        warnings.warn(
            f"{self.listener_name}: {self.upstream_name!r}, which it listens to, has not run on a Doc before it "
            "(disabled?); its vectors are computed now, for this component alone",
            stacklevel=2,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "Link":
        copied = Link(self.upstream_name, self.width, self.concat)
        copied.__dict__.update(self.__dict__, _inferring=[])
        return copied


@serialize_attr.register
def _serialize_link(_: Link, value: Link, name: str, model: Model[Any, Any]) -> bytes:
    return (value.digest or "").encode()


@deserialize_attr.register
def _deserialize_link(_: Link, value: Any, name: str, model: Model[Any, Any]) -> Link:
    link: Link = model.attrs[name]
    link.trained_with, link._checked = value.decode() or None, None
    return link


def link_of(node: Model[Any, Any]) -> Link | None:
    """The link of a listener's source; None where the node is another."""
    link = node.attrs.get("link") if node.name == _SOURCE else None
    return link if isinstance(link, Link) else None


def _init(model: Tok2VecModel, X: list[Doc] | None = None, Y: Any = None) -> None:  # noqa: N803 (thinc's names)
    link: Link = model.attrs["link"]
    link.trained_with = None  # what is initialized has not been trained
    link.get_upstream()
    link.infer(X or [])


def _forward(
    model: Tok2VecModel, docs: list[Doc], is_train: bool
) -> tuple[list[Array], Callable[[list[Array]], list[Doc]]]:
    link: Link = model.attrs["link"]
    upstream = link.get_upstream()
    if is_train:
        link.trained_with = None  # from here on it is trained with what is there
    if not is_train and (missing := upstream.missing(docs)):
        link.warn_of_absence(missing)
    rows = upstream.rows(docs, is_train)

    def backprop(d_rows: list[Array]) -> list[Doc]:
        upstream.add_gradients(docs, d_rows)
        return []

    ops: Any = model.ops
    return [ops.asarray(one) for one in rows], backprop


# What replace_listeners puts in a listener's place


class Replacement:
    """What spaCy's `replace_listeners` asks of the upstream model: the config and the model to put in the place of a
    listener. The scalar mix behind an ElmoListener stays; for a listener of spaCy's, the component's own mix comes
    along.

    frozen, layers: settings of the component.
    """

    def __init__(self, frozen: bool, layers: Layers) -> None:
        self.frozen, self.layers = frozen, layers
        self._tok2vec: dict[str, Any] = {}

    def config(self, bilm: dict[str, Any], tok2vec: dict[str, Any]) -> dict[str, Any]:
        """Called with the config of the upstream model and that of the whole tok2vec that has the listener."""
        self._tok2vec = tok2vec
        path = _find_listener(tok2vec)
        listener = tok2vec if path is None else functools.reduce(operator.getitem, path, tok2vec)
        settings = {key: value for key, value in listener.items() if key not in ("@architectures", "upstream")}
        if not str(listener.get("@architectures", "")).startswith("spacy-elmo."):
            settings["mix"] = self.layers
        return {"@architectures": "spacy-elmo.Tok2Vec.v1", "bilm": bilm, "frozen": self.frozen, **settings}

    def model(self, copied: Encoder, listener: Any, upstream: "ElmoComponent") -> Any:
        """Called with a copy of the upstream model, once `config` has been put where the user's path says.

        Raises:
            ElmoError: that was more than the listener: config and model would be two different things.
        """
        path = _find_listener(self._tok2vec)
        if path:  # it should have been replaced within
            right = ".".join(["model.tok2vec", *path])
            raise ElmoError(f"replace_listeners: the path given leads to more than the listener; its path is {right!r}")
        shim_of(copied).trainable = shim_of(upstream.model).trainable
        if isinstance(listener, Tok2VecListener):
            return chain(copied, scalar_mix(listener.get_dim("nO"), upstream.mix.layers))
        return copied


def _find_listener(config: Any) -> list[str] | None:
    """The path to the first listener in a model's config, `[]` where it is the whole; None where there is none."""
    if not isinstance(config, dict):
        return None
    if "Listener" in str(config.get("@architectures", "")):
        return []
    paths = ((key, _find_listener(value)) for key, value in config.items())
    return next(([key, *path] for key, path in paths if path is not None), None)


def make_replaceable(model: Encoder, frozen: bool, layers: Layers) -> None:
    """Tell spaCy how to replace listeners of a component with this model and these settings."""
    replacement = Replacement(frozen, layers)
    model.attrs["replace_listener"] = replacement.model
    model.attrs["replace_listener_cfg"] = replacement.config
