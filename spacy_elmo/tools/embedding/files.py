"""Writes the arrays of lines to a file: one function per format, chosen by the file's suffix."""

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
import srsly
from spacy.tokens import Doc, DocBin

from spacy_elmo.errors import ElmoError
from spacy_elmo.formats.hdf5_file import new_hdf5
from spacy_elmo.pipeline.annotations import annotate
from spacy_elmo.tools.embedding.encoder import Array, Layout
from spacy_elmo.tools.embedding.keys import FORMATS as FORMATS_WITH_KEYS
from spacy_elmo.tools.embedding.text import Text, line_hash

if TYPE_CHECKING:
    import pyarrow

INDEX = "sentence_to_index"
_GROUP = 2**24  # bytes of vectors in a row group (Parquet) or record batch (Arrow)


class Row(NamedTuple):
    """A line of the text, counted from 0, with its tokens and vectors."""

    number: int
    line: str
    tokens: list[str]
    vectors: Array


@dataclass(frozen=True)
class Wishes:
    """What the file should contain in addition to the vectors.

    sentences: the lines themselves; keys: name arrays by lines instead of line numbers (HDF5, npz).
    """

    sentences: bool = True
    keys: bool = False


Writer = Callable[[Path, Layout, Text, Wishes, Iterable[Row]], None]


def writer_for(out: Path, wishes: Wishes) -> Writer:
    """Choose the writer by suffix.

    Raises:
        ElmoError: the suffix is unknown, a package is missing, or the format does not support a wish.
    """
    writer = WRITERS.get(out.suffix)
    if writer is None:
        raise ElmoError(f"{out}: unknown format; expected a name that ends in one of {', '.join(WRITERS)}")
    if wishes.keys and out.suffix not in FORMATS_WITH_KEYS:
        raise ElmoError(f"{out}: sentences as keys are for .hdf5, .h5 and .npz; {out.suffix} has the sentences anyway")
    if writer in (write_arrow, write_parquet):
        _import_pyarrow()
    return writer


def write_hdf5(path: Path, layout: Layout, text: Text, wishes: Wishes, rows: Iterable[Row]) -> None:
    """Write the layout of `allennlp elmo` and of bilm-tf's `dump_bilm_embeddings`: one dataset per line, named by its
    number, and `sentence_to_index`, one JSON string."""
    with path.open("w+b") as stored, new_hdf5(stored) as file:
        for name, row in _named(rows, wishes):
            if not (wishes.keys and name in file):  # a repeated line has the same vectors
                file.add(name, row.vectors)
        if wishes.sentences and not wishes.keys:
            file.add(INDEX, [sentence_index(text.lines)], h5py.string_dtype())


def write_npz(path: Path, layout: Layout, text: Text, wishes: Wishes, rows: Iterable[Row]) -> None:
    """Write arrays for `numpy.load`, under the same names as in HDF5. Writing and reading keep the directory of the
    zip file in memory (about 1 KB per line)."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as file:
        seen: set[bytes] = set()
        for name, row in _named(rows, wishes):
            if wishes.keys:
                if (key := line_hash(name)) in seen:
                    continue
                seen.add(key)
            _add_array(file, name, row.vectors)
        if wishes.sentences and not wishes.keys:
            _add_array(file, INDEX, np.array([sentence_index(text.lines)]))


def _add_array(file: zipfile.ZipFile, name: str, array: Array) -> None:
    info = zipfile.ZipInfo()
    info.filename = f"{name}.npy"  # not an argument of ZipInfo: on Windows, that turns a backslash into a slash
    with file.open(info, "w", force_zip64=array.nbytes > 2**31) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def _named(rows: Iterable[Row], wishes: Wishes) -> Iterator[tuple[str, Row]]:
    return ((row.line if wishes.keys else str(row.number), row) for row in rows)


def sentence_index(lines: Callable[[], Iterable[str]]) -> bytes:
    """Return JSON of line → number (a string), in order of first occurrence. A repeated line has its last number.

    It equals what `allennlp elmo` writes, byte for byte, but needs no dictionary of all lines: in addition to the JSON
    itself it takes some 50 bytes per line.
    """
    hashes = np.fromiter(map(line_hash, lines()), dtype="S16")
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.append(True, hashes[order][1:] != hashes[order][:-1]) if len(order) else [])
    last = np.full(len(order), -1)
    last[order[starts]] = order[np.append(starts[1:], len(order)) - 1] if len(order) else []
    written = BytesIO(b"{")
    written.seek(1)
    for number, line in zip(last.tolist(), lines(), strict=True):
        if number >= 0:
            comma = ", " if written.tell() > 1 else ""
            written.write(f'{comma}{json.dumps(line)}: "{number}"'.encode())
    written.write(b"}")
    return written.getvalue()


def write_parquet(path: Path, layout: Layout, text: Text, wishes: Wishes, rows: Iterable[Row]) -> None:
    """Write columns `line`, `sentence`, `tokens` and `vectors`, or `layer_0`, `layer_1`, ... for all layers. A cell of
    these is a list with one vector per token."""
    _import_pyarrow()
    from pyarrow import parquet

    schema = _schema(layout, wishes)
    with parquet.ParquetWriter(path, schema) as file:
        for table in _tables(schema, layout, rows):
            file.write_table(table)


def write_arrow(path: Path, layout: Layout, text: Text, wishes: Wishes, rows: Iterable[Row]) -> None:
    """Write the columns of `write_parquet` to an Arrow IPC file (Feather 2)."""
    arrow = _import_pyarrow()
    schema = _schema(layout, wishes)
    with arrow.OSFile(str(path), "wb") as sink, arrow.ipc.new_file(sink, schema) as file:
        for table in _tables(schema, layout, rows):
            file.write_table(table)


def _import_pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise ElmoError(
            'writing Arrow and Parquet needs the package pyarrow: pip install "spacy-elmo[arrow]"'
        ) from None
    return pyarrow


def _schema(layout: Layout, wishes: Wishes) -> "pyarrow.Schema":
    arrow = _import_pyarrow()
    number = {"float16": arrow.float16(), "float32": arrow.float32()}[layout.dtype]
    vectors = arrow.list_(arrow.list_(number, layout.width))
    names = ["vectors"] if layout.n_outputs is None else [f"layer_{layer}" for layer in range(layout.n_outputs)]
    columns = [("line", arrow.int64())]
    if wishes.sentences:
        columns += [("sentence", arrow.string()), ("tokens", arrow.list_(arrow.string()))]
    return arrow.schema(columns + [(name, vectors) for name in names])


def _tables(schema: "pyarrow.Schema", layout: Layout, rows: Iterable[Row]) -> Iterator["pyarrow.Table"]:
    group: list[Row] = []
    size = 0
    for row in rows:
        if group and size + row.vectors.nbytes > _GROUP:
            yield _table(schema, layout, group)
            group, size = [], 0
        group.append(row)
        size += row.vectors.nbytes
    if group:
        yield _table(schema, layout, group)


def _table(schema: "pyarrow.Schema", layout: Layout, rows: list[Row]) -> "pyarrow.Table":
    arrow = _import_pyarrow()
    ends = np.cumsum([0, *(len(row.tokens) for row in rows)], dtype=np.int32)
    vectors = np.concatenate([row.vectors for row in rows], axis=-2).reshape(
        layout.n_outputs or 1, ends[-1], layout.width
    )
    columns: dict[str, Any] = {
        "line": [row.number for row in rows],
        "sentence": [row.line for row in rows],
        "tokens": [row.tokens for row in rows],
    }
    for name, layer in zip([name for name in schema.names if name not in columns], vectors, strict=True):
        of_tokens = arrow.FixedSizeListArray.from_arrays(arrow.array(layer.reshape(-1)), layout.width)
        columns[name] = arrow.ListArray.from_arrays(ends, of_tokens)
    return arrow.table([arrow.array(columns[field.name], field.type) for field in schema], schema=schema)


def write_docbin(path: Path, layout: Layout, text: Text, wishes: Wishes, rows: Iterable[Row]) -> None:
    """Write a DocBin whose Docs have `doc._.elmo` when read with `DocBin(store_user_data=True)`. With all layers,
    `doc._.elmo` is their mean, and `doc._.elmo_layers` has the layers. Rows of white space tokens are zero.

    `DocBin.to_bytes` would hold all vectors in memory three times. This writes the same bytes, but adds the user data,
    which come last, one by one. Words stay in memory, vectors do not.
    """
    bin_ = DocBin(attrs=["ORTH", "SPACY"])
    for doc in text.docs():
        bin_.add(doc)
    head = bytearray(zlib.decompress(bin_.to_bytes()))
    head[0] += 1  # one more entry in the map (in msgpack, the header of a map of up to 15 is one byte)
    head += srsly.msgpack_dumps("user_data") + b"\xdd" + len(bin_).to_bytes(4, "big")
    packed = zlib.compressobj(1)
    with path.open("wb") as file:
        file.write(packed.compress(bytes(head)))
        for doc, row in zip(text.docs(), rows, strict=True):
            _annotate(doc, row.vectors)
            file.write(packed.compress(srsly.msgpack_dumps(srsly.msgpack_dumps(doc.user_data))))
        file.write(packed.flush())


def _annotate(doc: Doc, vectors: Array) -> None:
    is_word = ~np.array([token.is_space for token in doc], dtype=bool)
    spread = np.zeros((*vectors.shape[:-2], len(doc), vectors.shape[-1]), vectors.dtype)
    spread[..., is_word, :] = vectors
    mean, layers = (spread, None) if spread.ndim == 2 else (spread.mean(axis=0), spread)
    annotate(doc, mean, layers, hooks=False, tensor=False)


WRITERS: dict[str, Writer] = {
    ".hdf5": write_hdf5,
    ".h5": write_hdf5,
    ".npz": write_npz,
    ".parquet": write_parquet,
    ".arrow": write_arrow,
    ".spacy": write_docbin,
}
