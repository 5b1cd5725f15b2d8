"""Serve an ELMo pipeline with FastAPI: texts in over HTTP, vectors, entities or classes out. See README.md.

python examples/serve/app.py --port 8000
"""

import argparse
import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

import uvicorn
from batcher import Batcher, OverloadedError
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pipeline import Kind, Pipeline
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

log = logging.getLogger("uvicorn.error")


@dataclass(frozen=True)
class Settings:
    """Settings from environment variables: SERVE_ and the name in capitals.

    pipeline: path or name of a spaCy pipeline; empty for a blank English one with the bundled model.
    max_body_bytes, max_texts, max_characters: limits per request; characters are those of all its texts together.
    max_batch_texts, max_batch_characters, max_wait_ms: about the most that a batch takes, and how long it waits.
    max_waiting_texts, max_waiting_characters: more are refused until some are answered.
    max_connections: more are refused until some are closed.
    max_client_seconds: how long a client may take to send a body, or leave its answer unread; also how long clients
        have to finish after SIGTERM.
    """

    pipeline: str = ""
    max_body_bytes: int = 1_000_000
    max_texts: int = 64
    max_characters: int = 10_000
    max_batch_texts: int = 128
    max_batch_characters: int = 50_000
    max_wait_ms: int = 5
    max_waiting_texts: int = 2048
    max_waiting_characters: int = 100_000
    max_connections: int = 1000
    max_client_seconds: int = 20

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the variables; raise a ValueError that names one if it isn't a whole number of at least 1."""
        given: dict[str, Any] = {}
        for field in fields(cls):
            name = f"SERVE_{field.name.upper()}"
            value = os.environ.get(name)
            if value is None:
                continue
            if field.type is int and not (value.isdecimal() and int(value) > 0):
                raise ValueError(f"{name} is {value!r}, expected a whole number of at least 1")
            given[field.name] = int(value) if field.type is int else value
        return cls(**given)


class Question(BaseModel):
    """Body of a request. `want` names what to return for each text; without it, all that the pipeline offers."""

    model_config = ConfigDict(extra="forbid")
    texts: list[str] = Field(min_length=1)
    want: list[Kind] | None = None


Load = Callable[[str, Callable[[str], None]], Pipeline]
Asked = tuple[str, Sequence[Kind]]


class Service:
    """The pipeline with the batcher in front of it; it loads in the background and runs in one worker thread."""

    def __init__(self, settings: Settings, load: Load) -> None:
        self.settings, self._load = settings, load
        self.pipeline: Pipeline | None = None
        self.error: str | None = None
        self.stage = "starting"
        self._started = time.monotonic()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pipeline")
        self.batcher = Batcher[Asked, str](
            self._run,
            settings.max_batch_texts,
            settings.max_wait_ms / 1000,
            settings.max_waiting_texts,
            size=lambda asked: len(asked[0]),
            max_size=settings.max_batch_characters,
            max_waiting_size=settings.max_waiting_characters,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the pipeline and answer requests; at the end, answer what is waiting and stop."""
        loading = asyncio.create_task(self._load_in_thread())
        working = asyncio.create_task(self.batcher.work())
        try:
            yield
        finally:
            self.batcher.close()
            await working
            loading.cancel()
            with suppress(asyncio.CancelledError):
                await loading
            self._thread.shutdown(wait=False, cancel_futures=True)

    def health(self) -> dict[str, Any]:
        """Return whether the service is loading, ready or failed, and what it has done."""
        status = "failed" if self.error else "ready" if self.pipeline else "loading"
        told: dict[str, Any] = {"status": status, "stage": self.error or self.stage}
        told["seconds"] = round(time.monotonic() - self._started, 1)
        if self.pipeline:
            told["offers"] = self.pipeline.offers
        return told | {"waiting": self.batcher.waiting} | asdict(self.batcher.counts)

    def check(self, question: Question) -> list[Asked]:
        """Return what to ask of the pipeline; raise an HTTPException if it can't answer."""
        if self.pipeline is None:
            raise HTTPException(503, f"not ready: {self.error or self.stage}", {"Retry-After": "1"})
        settings, offers = self.settings, self.pipeline.offers
        if len(question.texts) > settings.max_texts:
            raise HTTPException(422, f"{len(question.texts)} texts, expected at most {settings.max_texts} per request")
        if (length := sum(map(len, question.texts))) > settings.max_characters:
            raise HTTPException(422, f"{length} characters, expected at most {settings.max_characters} per request")
        wanted = offers if question.want is None else question.want
        if missing := set(wanted) - set(offers):
            raise HTTPException(422, f"this pipeline gives no {', '.join(sorted(missing))}; it gives {offers}")
        return [(text, wanted) for text in question.texts]

    async def _load_in_thread(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            self.pipeline = await loop.run_in_executor(self._thread, self._load, self.settings.pipeline, self._report)
            self.stage = "ready"
        except Exception as error:
            log.exception("the pipeline cannot be loaded")
            self.error = f"the pipeline cannot be loaded: {error}"

    def _report(self, stage: str) -> None:
        self.stage = stage

    async def _run(self, asked: list[Asked]) -> list[str]:
        assert self.pipeline is not None  # `check` has made sure
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.pipeline, asked)


def create_app(settings: Settings | None = None, load: Load = Pipeline) -> FastAPI:
    """Make the application; `load` makes the pipeline."""
    service = Service(settings or Settings.from_environment(), load)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(title="spacy-elmo", lifespan=lifespan)

    @app.get("/health")
    async def health() -> JSONResponse:
        """Tell whether the process is well; it may still be loading."""
        return JSONResponse(service.health(), 503 if service.error else 200)

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """Tell whether the server answers texts, and how far loading is."""
        return JSONResponse(service.health(), 200 if service.pipeline else 503)

    @app.post("/process", openapi_extra=_documented())
    async def process(request: Request) -> Response:
        """Answer texts: `results` holds an object for each, in the same order."""
        asked = service.check(await _read(request, service.settings))
        try:
            results = await service.batcher.submit(asked)
        except OverloadedError as error:
            raise HTTPException(503, str(error), {"Retry-After": "1"}) from None
        return Response('{"results": [' + ", ".join(results) + "]}", media_type="application/json")

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "internal error; the server's log says more"}, 500)

    return app


async def _read(request: Request, settings: Settings) -> Question:
    """Read the body; raise an HTTPException if it is too large, too slow or not a question."""
    try:
        body = await asyncio.wait_for(_read_body(request, settings.max_body_bytes), settings.max_client_seconds)
    except asyncio.TimeoutError:
        text = f"the body did not arrive within {settings.max_client_seconds} seconds"
        raise HTTPException(408, text, {"Connection": "close"}) from None
    try:
        return Question.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "body"
        raise HTTPException(400 if first["type"] == "json_invalid" else 422, f"{place}: {first['msg']}") from None


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """Read the body up to the limit."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise HTTPException(413, f"the body is too large, expected at most {max_bytes} bytes; send fewer texts")
    return bytes(body)


def _documented() -> dict[str, Any]:
    """Describe the body for /docs: FastAPI doesn't know it, because `_read` reads it by hand."""
    schema = {"application/json": {"schema": Question.model_json_schema()}}
    return {"requestBody": {"required": True, "content": schema}}


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM, whatever clients do.

    uvicorn has no time limit for a client that does not read its answer. Linux has one, TCP_USER_TIMEOUT, which
    connections inherit from the listening socket: a connection ends if sent bytes stay unread for that long.
    """
    config = uvicorn.Config(
        lambda: create_app(settings),
        factory=True,
        host=host,
        port=port,
        limit_concurrency=settings.max_connections,
        timeout_graceful_shutdown=settings.max_client_seconds,
    )
    listening = config.bind_socket()
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * settings.max_client_seconds)
    uvicorn.Server(config).run(sockets=[listening])


def main() -> None:
    """Parse arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    serve(Settings.from_environment(), options.host, options.port)


if __name__ == "__main__":
    main()
