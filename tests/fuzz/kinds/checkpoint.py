"""The folder of a stopped run, for `pretrain --resume`: `checkpoint.pt`, the logs and the encoded corpus."""

import copy
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import models
import torch
from changes import damage, odd_json, odd_text, put
from pickles import TorchFile, odd_tensor

from spacy_elmo import formats
from spacy_elmo.pretraining.checkpoint import NAME
from spacy_elmo.pretraining.config import (
    Config,
    CorpusConfig,
    LoggingConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
)
from spacy_elmo.pretraining.run import pretrain

_TEXT = "the bank of the wörd\na bank\n\nthe word of a bank\nof the bank\n"
_LOGS = ("metrics.jsonl", "heldout.jsonl")
_LOG_LINE = {"step": 1, "tokens": 4, "epoch": 0.2, "loss": 1.5, "tokens_per_second": 100.0}


def _config(max_steps: int, optimizer: Any) -> Config:
    return Config(
        ModelConfig(3, 2, 1, filters=((1, 2),), embedding_dim=2, max_characters_per_token=6),
        CorpusConfig(min_count=1),
        TrainingConfig(
            max_steps=max_steps,
            batch_size=2,
            unroll_steps=2,
            n_negative_samples_batch=0,
            device="cpu",
            average_decay=0.9,
        ),
        OptimizerConfig(name=optimizer),
        LoggingConfig(log_every=1),
    )


class Kind:
    """The checkpoint has the checksums of a zip archive. Half of the changed ones are changed before those are made."""

    def __init__(self, seeds: Path) -> None:
        self._runs, self._text = list[_Run](), seeds / "text.txt"
        seeds.mkdir()
        self._text.write_text(_TEXT, encoding="utf-8")
        for optimizer in ("adagrad", "adamw"):
            self._runs.append(_Run(self._text, seeds, optimizer))

    def make(self, rng: Random, folder: Path) -> bool:
        number = rng.randrange(len(self._runs))
        run = self._runs[number]
        files, chance, behind = dict(run.files), rng.random(), True
        if chance < 0.7:
            behind = rng.random() < 0.6  # half of all cases, because the other files have no checksums
            files[NAME] = run.changed(rng) if behind else damage(rng, run.checkpoint.zipped, run.places)
        elif chance < 0.8:
            name = rng.choice(_LOGS)
            files[name], behind = _odd_log(rng, files.get(name, b"")), False
        else:
            behind = False
            name = rng.choice(list(run.corpus))
            if rng.random() < 0.2:
                files.pop(name)
            else:
                files[name] = (
                    odd_json(rng, json.loads(files[name])) if name.endswith("json") else damage(rng, files[name])
                )
        put({f"{number}/{name}": content for name, content in files.items()}, folder)
        return behind

    def honest(self) -> Iterator[models.Files]:
        for number, run in enumerate(self._runs):
            yield {f"{number}/{name}": content for name, content in run.files.items()}

    def read(self, folder: Path, behind: bool) -> None:
        path = next(folder.iterdir())
        run, out = self._runs[int(path.name)], folder.with_name("out")
        shutil.copytree(path, out)
        run.resume(out)
        bilm = formats.load(out)
        assert all(parameter.isfinite().all() for parameter in bilm.parameters()), "weights that are not finite"
        is_same_text = all(
            (path / name).is_file() and (path / name).read_bytes() == content for name, content in run.corpus.items()
        )
        if not behind and is_same_text:
            assert formats.digest(bilm) == run.digest, "another model was trained"
        formats.open_model(out).softmax()
        for log in filter(Path.exists, (out / name for name in _LOGS)):
            assert all(isinstance(json.loads(line), dict) for line in log.read_bytes().splitlines()), "a damaged log"


class _Run:
    """A run of three steps that was stopped at the second."""

    def __init__(self, text: Path, seeds: Path, optimizer: str) -> None:
        self._text, self._optimizer = text, optimizer
        stopped, whole = seeds / f"{optimizer}-stopped", seeds / f"{optimizer}-whole"
        pretrain(text, stopped, _config(2, optimizer), show_progress=False)
        shutil.copytree(stopped, whole)
        self.resume(whole)
        self.digest = formats.digest(formats.load(whole))
        kept = (file for file in stopped.rglob("*") if file.is_file())
        self.files = {str(file.relative_to(stopped)): file.read_bytes() for file in kept}
        self.corpus = {name: content for name, content in self.files.items() if name.startswith("corpus/")}
        self._content = torch.load(io.BytesIO(self.files[NAME]), weights_only=True)
        self.checkpoint = TorchFile(self._content, _odd_content)
        self.places = [at for at in range(len(self.checkpoint.zipped)) if self.checkpoint.zipped[at : at + 2] == b"PK"]

    def changed(self, rng: Random) -> bytes:
        """Return a checkpoint that was changed before its checksums were made."""
        content, is_behind = self.checkpoint.change(rng) if rng.random() < 0.25 else (b"", False)
        return content if is_behind else self.checkpoint.of_odd_content(rng)

    def resume(self, out: Path) -> None:
        pretrain(self._text, out, _config(3, self._optimizer), resume=True, show_progress=False)


def _odd_content(rng: Random, honest: dict[str, Any]) -> Any:
    """Change one or more parts of a checkpoint: the whole part, a tensor in it, or a key."""
    content = copy.deepcopy(honest)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        node, key = rng.choice(list(_places(content)))
        value, chance = node[key], rng.random()
        if chance < 0.1 and isinstance(node, dict):
            del node[key]
            if not content:
                break
        elif chance < 0.2 and isinstance(node, dict):
            node[rng.choice((odd_text(rng), 0, f"{key}s", None))] = value
        elif isinstance(value, torch.Tensor) and rng.random() < 0.8:
            node[key] = odd_tensor(rng, value)
        else:
            node[key] = _odd_part(rng, value)
    return content if rng.random() < 0.97 else rng.choice(([content], None, {}, "x", {"model": content}))


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _odd_part(rng: Random, honest: Any) -> Any:
    return rng.choice(
        (
            lambda: rng.choice((None, True, False, 0, 1, 2, 3, -1, 2**31, 2**62, 2**63, 10**30, 0.0, 1.5, -0.0)),
            lambda: rng.choice((float("nan"), float("inf"), "", "x", b"x", 1j, "adam", "float16", "bfloat16")),
            lambda: odd_text(rng),
            lambda: rng.choice(([], {}, (), [1], {"a": 1}, {0: None}, (None, None), set())),
            lambda: [honest] * rng.choice((1, 2, 3)),
            lambda: (honest, honest),
            lambda: {"a": honest},
            lambda: honest * rng.choice((2, 3)) if isinstance(honest, int) else str(honest)[:100],
            lambda: torch.zeros(rng.choice((0, 1, 2, 3))),
            lambda: _nested(rng.choice((10, 100, 200))),
        )
    )()


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _odd_log(rng: Random, honest: bytes) -> bytes:
    lines = honest.splitlines(keepends=True) or [json.dumps(_LOG_LINE).encode() + b"\n"] * 3
    chance, number = rng.random(), rng.randrange(len(lines))
    if chance < 0.4:
        return damage(rng, b"".join(lines))
    if chance < 0.9:
        lines[number] = odd_json(rng, json.loads(lines[number])).replace(b"\n", b" ") + rng.choice((b"\n", b"\n", b""))
    else:
        lines.insert(number, rng.choice((b"\n", b"\r\n", b"\0\n", b"{}\n", b"[" * 100_000 + b"\n", b"{" * 10 + b"\n")))
    return b"".join(lines)
