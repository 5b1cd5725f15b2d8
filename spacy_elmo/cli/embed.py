"""`python -m spacy elmo embed`: the vectors of a text file."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING, cast

import typer
from typer import Argument, Exit, Option

from spacy_elmo.cli.output import Device, Quiet, failing_clearly

if TYPE_CHECKING:
    from spacy_elmo.tools.embed import Engine


@contextmanager
def _telling_how_to_go_on(message: Callable[[], str]) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM end the command with a line on stderr and the exit status that shells give them."""
    status = 128 + signal.SIGINT

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal status
        status = 128 + number
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        print(f"✘ {message()}", file=sys.stderr)
        raise Exit(status) from None
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@failing_clearly
def embed(
    text: str = Argument(help="One tokenized sentence a line, UTF-8, plain or .gz, .bz2, .xz, .zst"),
    out: str = Argument(help="File to write: .hdf5 or .h5 (as `allennlp elmo`), .npz, .parquet, .arrow or .spacy"),
    model: str = Option("en_elmo_sm", help="Bundled or downloaded name, directory, zip or .hdf5"),
    layers: str = Option("all", help="all, top, average, or the number of a layer (0: the token embedding)"),
    pipeline: str | None = Option(
        None, metavar="NAME_OR_LANG", help="Read raw text, and split it by the tokenizer of this pipeline or language"
    ),
    float16: bool = Option(False, "--float16", help="Write half-precision numbers: half the size"),
    forget_sentences: bool = Option(False, "--forget-sentences", help="Leave the sentences themselves out"),
    use_sentence_keys: bool = Option(
        False, "--use-sentence-keys", help="Name arrays by their sentences instead of line numbers (HDF5, npz)"
    ),
    allow_blank: bool = Option(False, "--allow-blank", help="Give blank lines arrays of no tokens, as bilm-tf does"),
    batch_size: int = Option(
        2048, min=1, help="Most lines held in memory at once; with --carry-state, the lines of a batch"
    ),
    max_batch_tokens: int = Option(4096, min=1, help="Tokens worked on at once"),
    carry_state: bool = Option(
        False, "--carry-state", help="Carry LSTM state from batch to batch as the original tools do, for parity only"
    ),
    device: str = Device,
    force: bool = Option(False, "--force", "-f", help="Replace OUT, and what an interrupted run left of it"),
    resume: bool = Option(False, "--resume", help="Go on with what an interrupted run left in OUT.part"),
    engine: str = Option("local", help="local: this process; ray: actors of Ray Data"),
    ray_address: str | None = Option(None, metavar="ADDRESS", help="Of a Ray cluster; else a Ray on this machine"),
    workers: int = Option(1, min=1, help="Actors of --engine ray"),
    gpus_per_worker: float = Option(0, min=0, help="GPUs that each actor asks for"),
    as_json: bool = Option(False, "--json", help="Print one JSON object"),
    quiet: bool = Quiet,
) -> None:
    """Write the vectors of each token of a text, a dataset a line.

    Example: python -m spacy elmo embed sentences.txt vectors.hdf5 --model en_elmo_sm --layers all
    """
    if engine not in ("local", "ray"):
        raise typer.BadParameter(f"--engine is local or ray, not {engine!r}")
    from spacy_elmo.tools import embed as tool

    with _telling_how_to_go_on(lambda: tool.interrupted(out)):
        report = tool.embed_file(
            text,
            out,
            model=model,
            layers=layers,
            pipeline=pipeline,
            float16=float16,
            forget_sentences=forget_sentences,
            use_sentence_keys=use_sentence_keys,
            allow_blank=allow_blank,
            batch_size=batch_size,
            max_batch_tokens=max_batch_tokens,
            carry_state=carry_state,
            device=device,
            force=force,
            resume=resume,
            engine=cast("Engine", engine),
            ray_address=ray_address,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            progress=not quiet,
        )
    if as_json:
        print(json.dumps(asdict(report)))
    elif not quiet:
        print(tool.summary(out, report))
