"""What spaCy's `replace_listeners` puts in place of a listener: the component's own biLM."""

import copy
import functools
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from spacy.pipeline.tok2vec import Tok2VecListener
from thinc.api import chain

from spacy_elmo.errors import ElmoError
from spacy_elmo.pipeline.mix import Layers, scalar_mix
from spacy_elmo.pipeline.shim import Encoder


@dataclass(frozen=True)
class _Assumed:
    """The replacement of a listener, and its assumed place in a tok2vec's config; before: that config."""

    tok2vec: dict[str, Any]
    before: dict[str, Any]
    path: list[str]
    replaced: dict[str, Any]

    @property
    def holds(self) -> bool:
        return not self.path or functools.reduce(operator.getitem, self.path, self.tok2vec) is self.replaced


class Replacement:
    """What spaCy's `replace_listeners` asks of the upstream model: the config and the model to put in place of a
    listener.

    An ElmoListener keeps its scalar mix. A listener of spaCy's gets the component's own mix.

    name: of the component; frozen, lr_scale, layers: its settings.
    """

    def __init__(self, name: str, frozen: bool, lr_scale: float, layers: Layers) -> None:
        self.name, self.frozen, self.lr_scale, self.layers = name, frozen, lr_scale, layers
        self._assumed: list[_Assumed] = []

    def offer(self, model: Encoder) -> None:
        """Let spaCy replace the listeners of the component that has this model."""
        model.attrs["replace_listener"], model.attrs["replace_listener_cfg"] = self.model, self.config

    def config(self, bilm: dict[str, Any], tok2vec: dict[str, Any]) -> dict[str, Any]:
        """Return the config of the replacement. spaCy calls this once for each path that the user gave, with the config
        of the upstream model and that of the whole tok2vec that has the listener, but without the path."""
        path = next(self._find_listeners(tok2vec), [])
        listener = functools.reduce(operator.getitem, path, tok2vec)
        settings = {key: value for key, value in listener.items() if key not in ("@architectures", "upstream")}
        if not _is_ours(listener):
            settings["mix"] = self.layers
        own = {"bilm": bilm, "frozen": self.frozen, "lr_scale": self.lr_scale}
        replaced = {"@architectures": "spacy-elmo.Tok2Vec.v1", **own, **settings}
        self._assumed.append(_Assumed(tok2vec, copy.deepcopy(tok2vec), path, replaced))
        return replaced

    def model(self, copied: Encoder, listener: Any, upstream: object) -> Any:
        """Return the replacement of a listener. spaCy calls this with a copy of the upstream model, once all results of
        `config` are where the user's paths say. (spaCy passes all three arguments, or only the copy:
        `Language.replace_listeners`.)

        Raises:
            ElmoError: the listeners were elsewhere, so the config and the model would differ.
        """
        assumed, self._assumed = self._assumed, []
        wrong = [place for place in assumed if not place.holds]
        if wrong:
            # One of these is now in place of the tok2vec in the config.
            for config in (assumed[0].tok2vec, *(place.replaced for place in assumed)):
                config.clear()
                config.update(copy.deepcopy(assumed[0].before))
            raise ElmoError(
                "replace_listeners: name the paths of the listeners themselves, in the order of the config, for "
                f"example {'.'.join(['model.tok2vec', *wrong[0].path])!r} first"
            )
        if isinstance(listener, Tok2VecListener):
            return chain(copied, scalar_mix(listener.get_dim("nO"), self.layers))
        return copied

    def _find_listeners(self, config: Any) -> Iterator[list[str]]:
        """Yield the paths to the component's listeners in a model's config; `[]` if it is itself one."""
        if not isinstance(config, dict):
            return
        if "Listener" in str(config.get("@architectures", "")):
            # for spaCy's listeners, "*" means another component: see `Hub.find_listeners`
            upstream = config.get("upstream", self.name)
            if upstream == self.name or (upstream == "*" and _is_ours(config)):
                yield []
        for key, value in config.items():
            yield from ([key, *path] for path in self._find_listeners(value))


def _is_ours(listener: dict[str, Any]) -> bool:
    return str(listener.get("@architectures", "")).startswith("spacy-elmo.")
