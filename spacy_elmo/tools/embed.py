"""A text file in, a file of ELMo vectors out (behind `python -m spacy elmo embed`)."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spacy_elmo.bilm.model import MAX_BATCH_TOKENS
from spacy_elmo.errors import ElmoError
from spacy_elmo.formats import open_model
from spacy_elmo.support.device import choose_device
from spacy_elmo.support.progress import progress_bar
from spacy_elmo.support.text import PathLike
from spacy_elmo.tools.describe import human_size
from spacy_elmo.tools.embedding.encoder import Array, Encoder, parse_layers
from spacy_elmo.tools.embedding.files import Row, Wishes, writer_for
from spacy_elmo.tools.embedding.keys import check_keys
from spacy_elmo.tools.embedding.ray_engine import connected, encode_on_ray, import_ray
from spacy_elmo.tools.embedding.spool import Spool, directory_of, open_spool, refuse_existing
from spacy_elmo.tools.embedding.text import Survey, Text, Window, windows

Engine = Literal["local", "ray"]
BATCH_SIZE = 2048
_BATCHES_A_WINDOW = 8  # of max_batch_tokens: enough that sorting by length pays, and that words repeat


@dataclass(frozen=True)
class EmbedReport:
    """What `embed_file` wrote: lines and their tokens, and the form of a line's array.

    layers: as asked for; width: of a vector; dtype: float32 or float16; bytes: size of the file.
    """

    lines: int
    tokens: int
    layers: str
    width: int
    dtype: str
    bytes: int


def embed_file(
    text: PathLike,
    out: PathLike,
    *,
    model: str = "en_elmo_sm",
    layers: str | int = "all",
    pipeline: str | None = None,
    float16: bool = False,
    forget_sentences: bool = False,
    use_sentence_keys: bool = False,
    allow_blank: bool = False,
    batch_size: int = BATCH_SIZE,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    carry_state: bool = False,
    device: str = "auto",
    force: bool = False,
    resume: bool = False,
    engine: Engine = "local",
    ray_address: str | None = None,
    workers: int = 1,
    gpus_per_worker: float = 0,
    progress: bool = False,
) -> EmbedReport:
    """Write the vectors of every line of a text, `[n_layers + 1, n_tokens, width]` for all layers, else
    `[n_tokens, width]`; the file appears when it is whole.

    text: one tokenized sentence a line, plain or `.gz`, `.bz2`, `.xz`, `.zst`; with `pipeline`, raw text.
    out: its suffix says the format: `.hdf5` or `.h5` (the layout of `allennlp elmo` 0.9 and bilm-tf's
        `dump_bilm_embeddings`), `.npz`, `.parquet`, `.arrow`, `.spacy`.
    model: see `formats.open_model`.
    layers: "all", "top", "average" (of all), or the number of a layer, 0 being the token embedding.
    pipeline: a spaCy pipeline or language whose tokenizer splits the lines.
    forget_sentences: leave the lines themselves out. use_sentence_keys: name arrays by lines, not line numbers; of a
        repeated line there is one.
    allow_blank: a blank line has an array of no tokens, as in bilm-tf; else it is an error, as in AllenNLP.
    batch_size: most lines held in memory at once; max_batch_tokens: as of `BiLM.encode`.
    carry_state: LSTM state goes on from each `batch_size` lines to the next, row by row, for parity with the originals.
    device: see `choose_device`; of each actor, with engine "ray".
    force: replace `out`, and drop what an interrupted run left. resume: go on with that.
    engine: "local" (this process), or "ray": `workers` actors on the Ray at `ray_address`, see `encode_on_ray`.
    progress: show bars on stderr.

    Vectors wait in a directory `OUT.part`, which takes as much room as OUT will, until all are there. Memory is that of
    8 * max_batch_tokens tokens, whatever the length of the text; what the formats themselves need beside is said in
    docs/embedding.md.

    Raises:
        ElmoError: a setting is wrong, the text has blank lines, lines that cannot be keys or cannot be read, `out`
            exists or cannot be written, the run to be resumed had other settings, or Ray fails.
    """
    out = Path(out)
    wishes = Wishes(not forget_sentences, use_sentence_keys)
    write = writer_for(out, wishes)
    refuse_existing(out, force or resume)
    _check_settings(batch_size, max_batch_tokens, workers, gpus_per_worker, carry_state, engine, device)
    source = Text.of(text, pipeline)
    survey = source.survey()
    _check_blank(source, survey, allow_blank, wishes)
    if use_sentence_keys:
        check_keys(source, out.suffix)
    opened = open_model(model)
    bilm = opened.bilm()
    encoder = Encoder(bilm, parse_layers(layers, bilm), float16, max_batch_tokens, carry_state, device)
    job = {
        "text": survey.digest,
        "model": opened.digest,
        "layers": str(layers),
        "float16": float16,
        "pipeline": pipeline,
        "carry_state": batch_size if carry_state else None,
    }
    max_tokens = float("inf") if carry_state else _BATCHES_A_WINDOW * max_batch_tokens
    all_windows = windows(source, batch_size, max_tokens)

    on_ray = connected(ray_address) if engine == "ray" else nullcontext()
    with on_ray as ray, _keeping_what_is_done(out):

        def encode(some: Iterable[Window]) -> Iterator[list[Array]]:
            if engine == "ray":
                return encode_on_ray(ray, encoder, some, workers, gpus_per_worker)
            encoder.on_device()
            return (encoder(window.sentences) for window in some)

        spool = open_spool(out, job, encoder.layout, resume, force)
        if spool is not None:
            _fill(spool, all_windows, encode, survey, carry_state, progress)
            n_tokens = spool.n_tokens
            with progress_bar(progress, "writing", survey.n_lines, unit=" lines") as bar:
                spool.finish(lambda path: write(path, encoder.layout, source, wishes, _rows(source, spool, bar.update)))
        else:
            n_tokens = sum(len(tokens) for _, tokens in source.sentences())
        size = out.stat().st_size
    layout = encoder.layout
    return EmbedReport(survey.n_lines, n_tokens, str(layers), layout.width, layout.dtype, size)


def summary(out: PathLike, report: EmbedReport) -> str:
    """The report as a line for people."""
    what = {"all": "all layers", "top": "the top layer", "average": "the average of the layers"}
    layers = what.get(report.layers, f"layer {report.layers}")
    return (
        f"✔ {out}: {report.lines:,} lines, {report.tokens:,} tokens, {layers}, {report.width} wide, {report.dtype}, "
        f"{human_size(report.bytes)}"
    )


def interrupted(out: PathLike) -> str:
    """What to tell a person who stopped a run, as a line."""
    part = directory_of(Path(out))
    go_on = f"; what is done is kept in {part}: run the same command with --resume to go on" if part.is_dir() else ""
    return f"{out}: stopped{go_on}"


def _check_settings(
    batch_size: int,
    max_batch_tokens: int,
    workers: int,
    gpus_per_worker: float,
    carry_state: bool,
    engine: str,
    device: str,
) -> None:
    for name, value in (("batch_size", batch_size), ("max_batch_tokens", max_batch_tokens), ("workers", workers)):
        if value < 1:
            raise ElmoError(f"{name} is {value}, expected at least 1")
    if gpus_per_worker < 0:
        raise ElmoError(f"gpus_per_worker is {gpus_per_worker}, expected 0 or more")
    if engine not in ("local", "ray"):
        raise ElmoError(f'engine is {engine!r}, expected "local" or "ray"')
    if carry_state and engine == "ray":
        raise ElmoError("carry_state goes line by line through the text, which Ray's actors share; use engine local")
    if engine == "ray":
        import_ray()
    else:
        choose_device(device)  # fails now rather than when the text is read


def _check_blank(text: Text, survey: Survey, allow_blank: bool, wishes: Wishes) -> None:
    if not survey.n_blank:
        return
    found = f"{text.path}: {survey.n_blank:,} blank line{'s' * (survey.n_blank > 1)} ({text.where_blank()})"
    if wishes.keys:
        raise ElmoError(f"{found}, and sentences are keys: nothing cannot be one; remove them")
    if not allow_blank:
        raise ElmoError(f"{found}; remove them, or give each an array of no tokens with --allow-blank")


def _fill(
    spool: Spool,
    all_windows: Iterator[Window],
    encode: Callable[[Iterable[Window]], Iterator[list[Array]]],
    survey: Survey,
    carry_state: bool,
    progress: bool,
) -> None:
    """Encode what is not in the spool yet, in the windows of an uninterrupted run, so that rounding is the same too."""

    def left() -> Iterator[Window]:
        for window in all_windows:
            if window.first + len(window.sentences) > spool.n_lines:
                spool.cut(window.first)
                yield window
                break
        yield from all_windows

    if carry_state and spool.n_lines < survey.n_lines:
        spool.cut(0)  # the state is not in the spool
    with progress_bar(progress, "embedding", survey.n_lines, unit=" lines", initial=spool.n_lines) as bar:
        for arrays in encode(left()):
            spool.add(arrays)
            bar.update(len(arrays))


def _rows(text: Text, spool: Spool, advance: Callable[[int], object]) -> Iterator[Row]:
    for number, ((line, tokens), vectors) in enumerate(zip(text.sentences(), spool.read(), strict=True)):
        yield Row(number, line, tokens, vectors)
        advance(1)


@contextmanager
def _keeping_what_is_done(out: Path) -> Iterator[None]:
    """Name the file when it cannot be written, and say how to go on."""
    try:
        yield
    except OSError as error:
        kept = f"; what is done is kept in {directory_of(out).name}: make room, then go on with --resume"
        raise ElmoError(f"{out}: cannot be written ({error}){kept if directory_of(out).is_dir() else ''}") from error
