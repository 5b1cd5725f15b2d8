"""Encodes windows with actors of Ray Data, on all machines of a Ray cluster."""

import logging
import re
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from spacy_elmo.errors import ElmoError
from spacy_elmo.tools.embedding.encoder import Array, Encoder
from spacy_elmo.tools.embedding.text import Window

if TYPE_CHECKING:
    import pyarrow


class _Actor:
    """An encoder in its own process. It turns tables of `line` and `tokens` into tables of `line` and `vectors`
    (bytes)."""

    def __init__(self, encoder: Any) -> None:
        import ray

        self._encoder: Encoder = ray.get(encoder).on_device()

    def __call__(self, table: "pyarrow.Table") -> "pyarrow.Table":
        import pyarrow

        arrays = self._encoder(table["tokens"].to_pylist())
        vectors = pyarrow.array([array.tobytes() for array in arrays], pyarrow.large_binary())
        return pyarrow.table({"line": table["line"], "vectors": vectors})


def import_ray() -> Any:
    """Return the package, with Ray Data.

    Raises:
        ElmoError: it is not installed, or is incomplete.
    """
    try:
        import pyarrow  # noqa: F401
        import ray
        import ray.data
    except ImportError:
        raise ElmoError('engine "ray" needs Ray: pip install "spacy-elmo[ray]"') from None
    return ray


def encode_on_ray(
    ray: Any, encoder: Encoder, windows: Iterable[Window], workers: int, gpus: float
) -> Iterator[list[Array]]:
    """Yield the arrays of the windows' sentences, in order.

    The biLM and the text go through Ray's object store, so the machines need spacy-elmo but no shared file system. If
    an actor dies, Ray starts it again and repeats its work.

    ray: from `connected`; workers: number of actors; gpus: number that each actor asks for.

    Raises:
        ElmoError: an actor fails.
    """
    with _ordered(ray):
        blocks = [ray.put(_block(window)) for window in windows]
        if not blocks:
            return
        shared = ray.put(encoder)  # keep the reference, so that a restarted actor finds the encoder
        encoded = ray.data.from_arrow_refs(blocks).map_batches(
            _Actor,
            fn_constructor_args=(shared,),
            batch_size=None,  # one window at a time
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
            num_gpus=gpus or None,
        )
        expected: int | None = None
        try:
            for table in encoded.iter_batches(batch_size=None, batch_format="pyarrow"):
                lines = table["line"].to_numpy()
                expected = int(lines[0]) if expected is None else expected
                if not np.array_equal(lines, np.arange(expected, expected + len(lines))):
                    raise ElmoError(
                        f"Ray returned lines {lines[0]} to {lines[-1]}, expected {expected}; continue with --resume"
                    )
                expected += len(lines)
                yield [_array(vectors, encoder) for vectors in table["vectors"]]
        except ray.exceptions.RayError as error:
            raise ElmoError(
                f"Ray: an actor failed ({_reason(error)}); finished vectors are kept, continue with --resume"
            ) from error


def _reason(error: Exception) -> str:
    """Return the first error in the remote traceback: the others follow from it."""
    found = re.search(r"^[\w.]*(Error|Exception)\b.*", str(error), re.MULTILINE)
    return found.group() if found else str(error).strip().splitlines()[0]


def _block(window: Window) -> "pyarrow.Table":
    import pyarrow

    lines = np.arange(window.first, window.first + len(window.sentences))
    tokens = pyarrow.array(window.sentences, pyarrow.list_(pyarrow.string()))
    return pyarrow.table({"line": lines, "tokens": tokens})


def _array(vectors: Any, encoder: Encoder) -> Array:
    layout, buffer = encoder.layout, vectors.as_buffer()
    return np.frombuffer(buffer, layout.dtype).reshape(layout.shape(buffer.size // layout.token_bytes))


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Context with a connected Ray. At the end it stops what it started.

    address: of a cluster; None: the Ray that runs in this process or on this machine, otherwise a new one.

    Raises:
        ElmoError: Ray is not installed, or cannot be reached.
    """
    ray = import_ray()
    connected = ray.is_initialized()
    if not connected:
        try:
            with _own_signals():
                ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ElmoError(f"Ray cannot be reached or started ({error})") from None
    try:
        yield ray
    finally:
        if not connected:
            ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Restore the handler of SIGTERM, which Ray replaces when it starts."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def _ordered(ray: Any) -> Iterator[None]:
    """Context in which datasets keep the order of their blocks and show no progress bars."""
    context = ray.data.DataContext.get_current()
    before = context.execution_options.preserve_order, context.enable_progress_bars
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    try:
        yield
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before
