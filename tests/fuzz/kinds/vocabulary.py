"""`vocab.txt` and `vocab.txt.gz`, of a model that reads words and of one that predicts them."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from random import Random

import models
from changes import damage, odd_text, put

_LINE_ENDS = ("\n", "\r\n", "\r", "\n\n", "\0\n", "\x85", "\u2028", " \n", "")


class Kind:
    """Tries odd lines, bytes and bombs. Half of the compressed files are changed before they are compressed."""

    def __init__(self, seeds: Path) -> None:
        self._models = [make(seeds / make.__name__) for make in (models.characters, models.words)]

    def make(self, rng: Random, folder: Path) -> bool:
        model = dict(rng.choice(self._models))
        honest = model.pop("vocab.txt")
        if rng.random() < 0.5:
            model["vocab.txt"] = self._changed(rng, honest)
            behind = False
        else:
            behind = rng.random() < 0.5
            model["vocab.txt.gz"] = (
                _packed(rng, self._changed(rng, honest)) if behind else damage(rng, gzip.compress(honest, mtime=0))
            )
        put(model, folder)
        return behind

    def honest(self) -> Iterator[models.Files]:
        for model in self._models:
            yield model
            others = {name: content for name, content in model.items() if name != "vocab.txt"}
            yield {**others, "vocab.txt.gz": gzip.compress(model["vocab.txt"], mtime=0)}

    def read(self, folder: Path, behind: bool) -> None:
        models.use(folder, folder.with_name("out"))

    @staticmethod
    def _changed(rng: Random, honest: bytes) -> bytes:
        chance = rng.random()
        if chance < 0.4:
            return damage(rng, honest)
        if chance < 0.41:
            return rng.choice((b"\n", b"a", b"a\n", b"\xf0\x9f\x98\x80\n", bytes(1))) * rng.choice((10**6, 10**7))
        lines = honest.decode().splitlines()
        for _ in range(rng.choice((1, 1, 2, 5))):
            line = odd_text(rng)
            rng.choice(
                (
                    lambda line=line: lines.insert(rng.randrange(len(lines) + 1), line),
                    lambda line=line: lines.__setitem__(rng.randrange(len(lines)), line),
                    lambda: lines.append(rng.choice(lines)),
                    lambda: rng.shuffle(lines),
                    lambda: len(lines) > 1 and lines.pop(),
                )
            )()
        text = "".join(line + (rng.choice(_LINE_ENDS) if rng.random() < 0.1 else "\n") for line in lines)
        return rng.choice((b"", b"", b"", b"\xef\xbb\xbf")) + text.encode(errors="surrogatepass")


def _packed(rng: Random, content: bytes) -> bytes:
    packed = gzip.compress(content, 1, mtime=0)
    return rng.choice((packed, packed, packed, packed + packed, packed + b"junk", gzip.compress(packed)))
