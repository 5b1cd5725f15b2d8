"""`pretrain.cfg`, and settings on the command line."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

from changes import damage, odd_json, odd_text, odd_value, to_json

from spacy_elmo.pretraining.config import Config

_SIZES = ("xs", "sm", "md", "original")


class Kind:
    """Tries odd values, keys, sections and bytes. The config is only read, because its network may have any size."""

    def __init__(self, seeds: Path) -> None:
        self._texts = [Config.of_size(size).text() for size in _SIZES]

    def make(self, rng: Random, folder: Path) -> bool:
        (folder / "pretrain.cfg").write_bytes(_changed(rng, rng.choice(self._texts)))
        return False

    def honest(self) -> Iterator[dict[str, bytes]]:
        for text in self._texts:
            yield {"pretrain.cfg": text.encode()}

    def read(self, folder: Path, behind: bool) -> None:
        path = folder / "pretrain.cfg"
        config = Config.from_file(path)
        out = folder.with_name("out") / "pretrain.cfg"
        out.parent.mkdir()  # the next case removes a folder
        out.write_text(config.text(), encoding="utf-8")
        assert repr(Config.from_file(out)) == repr(config), "other settings when written again"
        config.model.options()


def _changed(rng: Random, text: str) -> bytes:
    if rng.random() < 0.3:
        return damage(rng, text.encode())
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2, 4))):
        number = rng.choice([number for number, line in enumerate(lines) if line and not line.startswith("#")])
        key, _, value = lines[number].partition(" = ")
        lines[number] = rng.choice(
            (
                lambda key=key: f"{key} = {to_json(odd_value(rng))}",
                lambda key=key: f"{key} = {to_json(odd_value(rng))}",
                lambda key=key: f"{key} = {odd_json(rng, [[1, 32], [2, 32]]).decode(errors='replace')}",
                lambda value=value: f"{odd_text(rng)} = {value}",
                lambda key=key: f"{key} = {odd_text(rng)}",
                lambda: odd_text(rng),
                lambda: f"[{odd_text(rng)}]",
                lambda line=lines[number]: f"{line}\n{line}",
                lambda line=lines[number]: f"  {line}",
                lambda key=key: key,
                lambda: "",
            )
        )()
    return "\n".join(lines).encode(errors="surrogatepass")
