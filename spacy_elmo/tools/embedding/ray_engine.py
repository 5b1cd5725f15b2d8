"""Windows in, arrays out, worked on by actors of Ray Data wherever Ray reaches."""

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
    """An encoder in a process of its own: tables of `line` and `tokens` in, of `line` and `vectors` (bytes) out."""

    def __init__(self, encoder: Any) -> None:
        import ray

        self._encoder: Encoder = ray.get(encoder).on_device()

    def __call__(self, table: "pyarrow.Table") -> "pyarrow.Table":
        import pyarrow

        arrays = self._encoder(table["tokens"].to_pylist())
        vectors = pyarrow.array([array.tobytes() for array in arrays], pyarrow.large_binary())
        return pyarrow.table({"line": table["line"], "vectors": vectors})


def import_ray() -> Any:
    """The package, with Ray Data.

    Raises:
        ElmoError: it is not installed, or not whole.
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

    The biLM and the text travel through Ray's object store, so that its machines need no common file system, only
    spacy-elmo. An actor that dies is started again, and what it was working on is done again.

    ray: of `connected`; workers: actors; gpus: that each of them asks for.

    Raises:
        ElmoError: an actor fails.
    """
    with _ordered(ray):
        blocks = [ray.put(_block(window)) for window in windows]
        if not blocks:
            return
        shared = ray.put(encoder)  # held here, so that an actor started anew finds it
        encoded = ray.data.from_arrow_refs(blocks).map_batches(
            _Actor,
            fn_constructor_args=(shared,),
            batch_size=None,  # a window at a time
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
                        f"Ray gave lines {lines[0]} to {lines[-1]} where {expected} was next; --resume goes on"
                    )
                expected += len(lines)
                yield [_array(vectors, encoder) for vectors in table["vectors"]]
        except ray.exceptions.RayError as error:
            raise ElmoError(
                f"Ray: an actor failed ({_reason(error)}); what was done is kept, --resume goes on"
            ) from error


def _reason(error: Exception) -> str:
    """The line of the remote traceback that says what failed: the first error in it, from which the others follow."""
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
    """Ray, connected; what was started here is stopped again.

    address: of a cluster; None: the Ray that runs in this process or machine, else a new one.

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
    """Ray takes SIGTERM over when it starts; give it back to whom it was."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def _ordered(ray: Any) -> Iterator[None]:
    """Within, datasets keep the order of their blocks and draw no bars."""
    context = ray.data.DataContext.get_current()
    before = context.execution_options.preserve_order, context.enable_progress_bars
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    try:
        yield
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before
