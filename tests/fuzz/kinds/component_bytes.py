"""The result of the component's `to_bytes`, for `from_bytes`."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import models
import numpy as np
import spacy
import srsly
from changes import damage, odd_value
from hdf5 import HDF5File
from spacy.tokens import Doc

from spacy_elmo.formats import digest, load
from spacy_elmo.pipeline.shim import shim_of
from spacy_elmo.support.sealed import seal, unseal

_WORDS = ["the", "bank", "of", "wörd"]
_SEAL = 52  # bytes of the mark and the checksum


class Kind:
    """Half are changed before the checksums are computed: thinc's message, the biLM's in it, or their content."""

    def __init__(self, seeds: Path) -> None:
        self._nlp = spacy.blank("xx")
        self._bytes, self._digests, self._weights = list[bytes](), list[str](), list[HDF5File]()
        for make in (models.characters, models.words, models.manylangs):
            folder = seeds / make.__name__
            self._weights.append(HDF5File(make(folder)["weights.hdf5"]))
            self._digests.append(digest(load(folder)))
            self._bytes.append(self._component(folder).to_bytes())
        self._empty = seeds / models.characters.__name__  # what is loaded replaces it

    def make(self, rng: Random, folder: Path) -> bool:
        number = rng.randrange(len(self._bytes))
        behind = rng.random() < 0.5
        content = self._changed(rng, number) if behind else damage(rng, self._bytes[number], [0, _SEAL - 32, _SEAL])
        (folder / f"{number}.bytes").write_bytes(content)
        return behind

    def honest(self) -> Iterator[models.Files]:
        for number, content in enumerate(self._bytes):
            yield {f"{number}.bytes": content}

    def read(self, folder: Path, behind: bool) -> None:
        path = next(folder.iterdir())
        component = self._component(self._empty)
        component.from_bytes(path.read_bytes())
        shim = shim_of(component.model)
        assert behind or shim.digest == self._digests[int(path.stem)], "another model was loaded"
        doc = component(Doc(self._nlp.vocab, words=_WORDS))
        assert doc._.elmo.shape == (len(_WORDS), shim.bilm.options.width), "rows of another form"
        assert np.isfinite(doc._.elmo).all(), "vectors that are not finite"
        again = self._component(self._empty).from_bytes(component.to_bytes())
        assert shim_of(again.model).digest == shim.digest, "another model when saved again"

    def _component(self, weights: Path) -> Any:
        return self._nlp.create_pipe("elmo", config={"model": {"weights": str(weights), "device": "cpu"}})

    def _changed(self, rng: Random, number: int) -> bytes:
        outer = srsly.msgpack_loads(unseal(self._bytes[number], "bytes"))
        chance = rng.random()
        if chance < 0.2:
            return seal(damage(rng, srsly.msgpack_dumps(outer)))
        if chance < 0.3:
            return seal(_packed(_odd(rng, outer)))
        model = srsly.msgpack_loads(outer["model"])
        if chance < 0.4:
            outer["model"] = damage(rng, outer["model"])
        elif chance < 0.55:
            outer["model"] = _packed(_odd(rng, model))
        else:
            model["shims"][0][0] = self._odd_shim(rng, model["shims"][0][0], number)
            outer["model"] = _packed(model)
        content = _packed(outer)
        return content if rng.random() < 0.1 else seal(content)  # without a checksum, as in earlier versions

    def _odd_shim(self, rng: Random, content: bytes, number: int) -> bytes:
        parts = srsly.msgpack_loads(unseal(content, "bytes"))
        chance = rng.random()
        if chance < 0.15:
            return seal(damage(rng, srsly.msgpack_dumps(parts)))
        if chance < 0.45:
            parts["weights"] = self._weights[number].change(rng)[0]
        else:
            parts = _odd(rng, parts)
        return seal(_packed(parts))


def _odd(rng: Random, honest: Any) -> Any:
    """Replace a value in a message with anything that a message can contain."""
    places = list(_places(honest))
    for _ in range(rng.choice((1, 1, 2, 4))):
        node, key = rng.choice(places)
        value = rng.choice(
            (odd_value(rng), odd_value(rng), b"", rng.randbytes(20), np.zeros(3), np.zeros((0, 2), "f2"))
        )
        if rng.random() < 0.15 and isinstance(node, dict):
            node.pop(key, None)
        elif rng.random() < 0.15:
            honest = {**honest, "more": value} if isinstance(honest, dict) else honest
        else:
            node[key] = value if isinstance(node, dict) or key < len(node) else None
    return honest


def _places(node: Any) -> Any:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield node, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _packed(value: Any) -> bytes:
    """Pack a value like msgpack. What msgpack cannot write is left out."""
    try:
        return bytes(srsly.msgpack_dumps(value))
    except Exception:  # a lone surrogate, an integer of more than 64 bits, too deep nesting
        return bytes(srsly.msgpack_dumps(_writable(value)))


def _writable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_writable(key): _writable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_writable(inner) for inner in value]
    try:
        srsly.msgpack_dumps(value)
    except Exception:
        return str(value).encode(errors="replace").decode()
    return value
