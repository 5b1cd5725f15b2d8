"""Writes ELMo vectors of a text file (behind `python -m spacy elmo embed`)."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spacy_elmo.errors import CorpusError, ElmoError
from spacy_elmo.formats import open_model
from spacy_elmo.support.device import choose_device
from spacy_elmo.support.layers import Choice, parse_layers
from spacy_elmo.support.paths import path_of
from spacy_elmo.support.progress import progress_bar
from spacy_elmo.support.standard_input import rereadable
from spacy_elmo.support.text import PathLike
from spacy_elmo.tools.describe import human_size
from spacy_elmo.tools.embedding.encoder import WORDS, Array, Encoder
from spacy_elmo.tools.embedding.files import Row, Wishes, writer_for
from spacy_elmo.tools.embedding.keys import check_keys
from spacy_elmo.tools.embedding.ray_engine import connected, encode_on_ray, import_ray
from spacy_elmo.tools.embedding.settings import EmbedSettings
from spacy_elmo.tools.embedding.spool import Spool, directory_of, open_spool, refuse_existing
from spacy_elmo.tools.embedding.text import Survey, Text, Window, changed, windows
from spacy_elmo.tools.untokenized import warn_of

Encode = Callable[[Iterable[Window]], Iterator[list[Array]]]
_BATCHES_A_WINDOW = 8  # of max_batch_tokens: enough for sorting by length to pay off, and for words to repeat


@dataclass(frozen=True)
class EmbedReport:
    """What `embed_file` wrote: the number of lines and tokens, and the form of a line's array.

    layers: the setting; width: of a vector; dtype: float32 or float16; bytes: size of the file.
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
    settings: EmbedSettings = EmbedSettings(),  # noqa: B008 (it is frozen)
    *,
    progress: bool = False,
    **changes: Any,
) -> EmbedReport:
    """Write the vectors of every line of a text: `[n_layers + 1, n_tokens, width]` for all layers, otherwise
    `[n_tokens, width]`. The file appears once it is complete.

    text: one tokenized sentence per line, plain or `.gz`, `.bz2`, `.xz`, `.zst`; with `pipeline`, raw text; `-` or a
        pipe is copied to a temporary file, because the text is read several times.
    out: its suffix chooses the format: `.hdf5` or `.h5` (the layout of `allennlp elmo` 0.9 and bilm-tf's
        `dump_bilm_embeddings`), `.npz`, `.parquet`, `.arrow`, `.spacy`.
    changes: settings by their names, as in `embed_file("text.txt", "out.h5", layers="top", float16=True)`.
    progress: show progress bars on stderr.

    Until all vectors are there, they are in a directory `OUT.part`, which takes as much room as OUT will. The memory is
    that of 8 * max_batch_tokens tokens, whatever the length of the text. docs/embedding.md says what the formats need
    in addition.

    Raises:
        ElmoError: a setting is wrong; the text has blank lines, or lines that cannot be keys or cannot be read; `out`
            exists or cannot be written; the interrupted run had other settings; or Ray fails.
    """
    settings, out = replace(settings, **changes), path_of(out, "out")
    with rereadable(text) as source:
        return _embed(Path(source), out, settings, progress)


def _embed(text: Path, out: Path, settings: EmbedSettings, progress: bool) -> EmbedReport:
    wishes = Wishes(not settings.forget_sentences, settings.use_sentence_keys)
    write = writer_for(out, wishes)
    refuse_existing(out, settings.force or settings.resume)
    if out.exists() and text.exists() and out.samefile(text):
        raise ElmoError(f"{out}: is the text itself, which the vectors would replace; name another file to write")
    _check_machine(settings)
    source = Text.of(text, settings.pipeline)
    opened = open_model(settings.model)
    layers = parse_layers(settings.layers, WORDS, opened.options.n_outputs)
    survey = source.survey()
    if source.nlp is None:
        warn_of(
            [source.path],
            "let --pipeline (in Python: pipeline=...) split it: a language such as en, or a spaCy pipeline. The "
            "file should hold only the text, one sentence per line",
        )
    _check_lines(source, survey, settings, out)
    encoder = Encoder(opened.bilm(), layers, settings)
    layout, job = encoder.layout, _job(settings, survey, opened.digest, layers)
    with (
        _engine(encoder, settings) as encode,
        _keeping_what_is_done(out),
        open_spool(out, job, layout, wishes, settings.resume, settings.force) as spool,
    ):
        if spool is not None:
            _fill(spool, _windows(source, settings), encode, survey, settings.carry_state, progress)
            n_tokens = spool.n_tokens
            with progress_bar(progress, "writing", survey.n_lines, unit=" lines") as bar:
                rows = _rows(source, spool, bar.update)

                def write_whole(path: Path) -> None:
                    write(path, layout, source, wishes, rows)
                    _check_unchanged(source, survey, spool)

                spool.finish(write_whole, wishes)
        else:
            n_tokens = sum(len(tokens) for _, tokens in source.sentences())
        size = out.stat().st_size
    return EmbedReport(survey.n_lines, n_tokens, str(settings.layers), layout.width, layout.dtype, size)


def summary(out: PathLike, report: EmbedReport) -> str:
    """Return the report as a readable line."""
    average = "the average of the layers"
    what = {"all": "all layers", "top": "the top layer", "average": average, "mean": average}
    layers = what.get(report.layers, f"layer {report.layers}")
    return (
        f"✔ {out}: {report.lines:,} lines, {report.tokens:,} tokens, {layers}, {report.width} wide, {report.dtype}, "
        f"{human_size(report.bytes)}"
    )


def interrupted(out: PathLike) -> str:
    """Return the line to show when somebody stops a run."""
    part = directory_of(Path(out))
    go_on = (
        f"; finished vectors are kept in {part}: add --resume to the same command to continue" if part.is_dir() else ""
    )
    return f"{out}: stopped{go_on}"


def _check_machine(settings: EmbedSettings) -> None:
    """Raise an ElmoError if Ray or the device is missing, before the text is read."""
    if settings.engine == "ray":
        import_ray()
    else:
        choose_device(settings.device)


def _check_lines(text: Text, survey: Survey, settings: EmbedSettings, out: Path) -> None:
    """Raise an ElmoError if lines are blank but must not be, or should name arrays but cannot."""
    if survey.n_blank:
        found = f"{text.path}: {survey.n_blank:,} blank line{'s' * (survey.n_blank > 1)} ({text.where_blank()})"
        if settings.use_sentence_keys:
            raise ElmoError(f"{found}, which cannot be keys (--use-sentence-keys); remove them")
        if not settings.allow_blank:
            raise ElmoError(f"{found}; remove them, or add --allow-blank to give each an array without tokens")
    if settings.use_sentence_keys:
        check_keys(text, out.suffix)


def _job(settings: EmbedSettings, survey: Survey, model: str, layers: Choice) -> dict[str, Any]:
    """Return what must be the same to resume an interrupted run. model: its digest."""
    return {
        "text": survey.digest,
        "tokens": survey.tokens,
        "model": model,
        "layers": str(layers),
        "float16": settings.float16,
        "pipeline": settings.pipeline,
        "carry_state": settings.batch_size if settings.carry_state else None,
    }


def _windows(text: Text, settings: EmbedSettings) -> Iterator[Window]:
    max_tokens = float("inf") if settings.carry_state else _BATCHES_A_WINDOW * settings.max_batch_tokens
    return windows(text, settings.batch_size, max_tokens)


@contextmanager
def _engine(encoder: Encoder, settings: EmbedSettings) -> Iterator[Encode]:
    """Provide the function that encodes windows in order, in this process or on Ray."""
    if settings.engine == "ray":
        with connected(settings.ray_address) as ray:
            yield lambda some: encode_on_ray(ray, encoder, some, settings.workers, settings.gpus_per_worker)
    else:
        encoder.on_device()
        yield lambda some: (encoder(window.sentences) for window in some)


def _fill(
    spool: Spool,
    all_windows: Iterator[Window],
    encode: Encode,
    survey: Survey,
    carry_state: bool,
    progress: bool,
) -> None:
    """Encode what is not in the spool yet, in the windows of an uninterrupted run, so that rounding is the same."""

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
    if (n_lines := spool.n_lines) != survey.n_lines:
        spool.cut(0)
        raise ElmoError(
            f"the text had {survey.n_lines:,} lines at first and {n_lines:,} later; do not change it during a run"
        )


def _rows(text: Text, spool: Spool, advance: Callable[[int], object]) -> Iterator[Row]:
    # If the text was changed and has other lines now, _check_unchanged says so.
    for number, ((line, tokens), vectors) in enumerate(zip(text.sentences(), spool.read(), strict=False)):
        if vectors.shape[-2] != len(tokens):
            spool.cut(0)
            raise changed(text.path)
        yield Row(number, line, tokens, vectors)
        advance(1)


def _check_unchanged(text: Text, survey: Survey, spool: Spool) -> None:
    """Raise a CorpusError if the text was changed during the run: some vectors may be those of other lines."""
    try:
        text.check(survey)
    except CorpusError:
        spool.cut(0)
        raise


@contextmanager
def _keeping_what_is_done(out: Path) -> Iterator[None]:
    """Name the file if it cannot be written, and say how to continue."""
    try:
        yield
    except MemoryError as error:
        raise ElmoError(f"{out}: out of memory ({error}); use a smaller --max-batch-tokens or shorter lines") from error
    except OSError as error:
        kept = f"; finished vectors are kept in {directory_of(out).name}: free some space, then continue with --resume"
        raise ElmoError(f"{out}: cannot be written ({error}){kept if directory_of(out).is_dir() else ''}") from error
