"""The serving example: real clients of a real server, and faults that only a slow or broken pipeline shows."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import spacy
import uvicorn

SERVE = Path(__file__).resolve().parents[2] / "examples" / "serve"
TEXTS = [f"Number {number}: the bank lent {'much ' * (number % 7)}money." for number in range(40)]


@pytest.fixture(scope="module", autouse=True)
def example_on_path():
    """Let the example's modules import one another by name, as `--app-dir` does."""
    sys.path.insert(0, str(SERVE))
    yield
    sys.path.remove(str(SERVE))
    for name in ("app", "batcher", "pipeline", "load"):
        sys.modules.pop(name, None)


@contextlib.contextmanager
def server(log, **settings):
    """Start a server in a separate process. Gives its address, its process, and what /ready said while it loaded."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, str(SERVE / "app.py")]
    environment = os.environ | {f"SERVE_{name.upper()}": str(value) for name, value in settings.items()}
    with log.open("w") as output:
        process = subprocess.Popen([*command, "--port", str(port)], env=environment, stdout=output, stderr=output)
    url, seen = f"http://127.0.0.1:{port}", []
    try:
        for _ in range(1200):
            with contextlib.suppress(httpx.TransportError):
                answer = httpx.get(f"{url}/ready")
                seen.append((answer.status_code, answer.json()["status"], httpx.get(f"{url}/health").status_code))
                if answer.status_code == 200:
                    break
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield url, process, seen
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    log = tmp_path_factory.mktemp("serve") / "log"
    limits = {"max_body_bytes": 20_000, "max_texts": 8, "max_characters": 500, "max_wait_ms": 20}
    with server(log, **limits) as running:
        yield running


@pytest.fixture(scope="module")
def url(running):
    return running[0]


@pytest.fixture(scope="module")
def nlp():
    nlp = spacy.blank("en")
    nlp.add_pipe("elmo")
    return nlp


def ask(url, **body):
    return httpx.post(f"{url}/process", json=body, timeout=60)


def test_health_and_readiness_from_the_start(running):
    url, _, seen = running
    assert seen[-1] == (200, "ready", 200)
    assert set(seen[:-1]) <= {(503, "loading", 200)}
    assert httpx.get(f"{url}/health").json()["offers"] == ["vector", "vectors"]


def test_vectors_are_those_of_the_pipeline(url, nlp):
    for text, result in zip(TEXTS[:8], ask(url, texts=TEXTS[:8]).json()["results"], strict=True):
        doc = nlp(text)
        assert result["tokens"] == [token.text for token in doc]
        np.testing.assert_allclose(result["vectors"], doc._.elmo, rtol=0, atol=1e-5)
        np.testing.assert_allclose(result["vector"], doc.vector, rtol=0, atol=1e-5)


def test_requests_that_arrive_together_are_answered_together(url, nlp):
    before = httpx.get(f"{url}/health").json()
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda text: ask(url, texts=[text], want=["vector"]), TEXTS))
    after = httpx.get(f"{url}/health").json()
    assert after["requests"] - before["requests"] == len(TEXTS)
    assert after["items"] - before["items"] == len(TEXTS)
    assert after["batches"] - before["batches"] < len(TEXTS)
    assert after["largest_batch"] > 1
    for text, answer in zip(TEXTS, answers, strict=True):
        (result,) = answer.json()["results"]
        assert set(result) == {"tokens", "vector"}
        np.testing.assert_allclose(result["vector"], nlp(text).vector, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("text", "tokens"), [("", []), (" \n", [" \n"])])
def test_a_text_without_words_has_a_zero_vector(url, text, tokens, bundled_width):
    empty, other = ask(url, texts=[text, "Not empty"]).json()["results"]
    assert empty["tokens"] == tokens
    assert len(empty["vectors"]) == len(tokens)
    assert set(empty["vector"]) == {0.0}
    assert len(empty["vector"]) == len(other["vector"]) == bundled_width


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b'{"texts": ["a"', 400, "Invalid JSON"),
        (b"", 400, "Invalid JSON"),
        (b"\xff\xfe", 400, "Invalid JSON"),
        (b'{"texts": ["\\ud800"]}', 400, "Invalid JSON"),
        (b'["a"]', 422, "object"),
        (b'{"text": ["a"]}', 422, "texts"),
        (b'{"texts": "a"}', 422, "texts"),
        (b'{"texts": []}', 422, "texts"),
        (b'{"texts": ["a", 3]}', 422, "texts.1"),
        (b'{"texts": ["a"], "want": ["entities"]}', 422, "no entities; it gives ['vector', 'vectors']"),
        (b'{"texts": ["a"], "want": ["syntax"]}', 422, "want.0"),
        (json.dumps({"texts": ["a"] * 9}).encode(), 422, "9 texts, expected at most 8"),
        (json.dumps({"texts": ["a", "b" * 501]}).encode(), 422, "502 characters, expected at most 500 per request"),
        (b" " * 20_001, 413, "20000 bytes"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(url, body, status, message):
    answer = httpx.post(f"{url}/process", content=body)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]


def test_a_body_without_length_is_limited_too(url):
    answer = httpx.post(f"{url}/process", content=(b" " * 1000 for _ in range(40)))
    assert answer.status_code == 413


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/process", 405), ("GET", "/nothing", 404)])
def test_wrong_addresses_are_told_in_json(url, method, path, status):
    answer = httpx.request(method, f"{url}{path}")
    assert answer.status_code == status
    assert answer.json()["error"]


def test_load_client_measures(url):
    command = [sys.executable, str(SERVE / "load.py"), "--url", url, "--clients", "1", "8", "--requests", "30"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    one, eight = map(json.loads, lines)
    assert (one["clients"], eight["clients"]) == (1, 8)
    assert one["texts_per_batch"] == 1
    assert eight["texts_per_batch"] > 1
    assert all(0 < line["median_ms"] <= line["p95_ms"] for line in (one, eight))


def test_a_request_under_way_is_answered_before_the_server_ends(tmp_path):
    with server(tmp_path / "log", max_wait_ms=1500) as (url, process, _), ThreadPoolExecutor(1) as client:
        answer = client.submit(ask, url, texts=["One more"], want=["vector"])
        while httpx.get(f"{url}/health").json()["waiting"] == 0 and not answer.done():
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert answer.result().status_code == 200
        process.wait(60)
    assert "Application shutdown complete" in (tmp_path / "log").read_text()


def test_a_wrong_setting_ends_the_server_with_its_name(tmp_path):
    command = [sys.executable, str(SERVE / "app.py")]
    ended = subprocess.run(command, env=os.environ | {"SERVE_MAX_TEXTS": "many"}, capture_output=True, text=True)
    assert ended.returncode
    assert "SERVE_MAX_TEXTS is 'many', expected a whole number of at least 1" in ended.stderr


# Clients that are slow, broken, or never read

LARGE = json.dumps({"texts": ["bank " * 1900], "want": ["vectors"]}).encode()  # its response fills all buffers
HEAD = b"POST /process HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n"


def connected(url, content=b""):
    """Open a connection and send this on it."""
    client = socket.create_connection(("127.0.0.1", httpx.URL(url).port), timeout=60)
    client.sendall(content)
    return client


def rest_of(client):
    """Return what arrives until the other side closes."""
    content = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(2**16):
            content += chunk
    return content


def test_others_are_answered_while_two_hundred_clients_hang_on(tmp_path):
    """The clients never read, never finish a request, or send something other than HTTP. Then comes SIGTERM."""
    limits = {"max_client_seconds": 6, "max_waiting_characters": 20_000}
    with server(tmp_path / "log", **limits) as (url, process, _), contextlib.ExitStack() as stack:
        sent = (
            [HEAD % len(LARGE) + LARGE] * 20 + [HEAD % 100 + b"{"] * 80 + [b"POST /pro"] * 80 + [b"\0\xff\r\n\r\n"] * 20
        )
        for content in sent:
            stack.enter_context(connected(url, content))
        found = []
        while len(found) < 10:  # for a while, clients that do not read fill the queue
            answer = ask(url, texts=["One more"], want=["vector"])
            assert answer.status_code in (200, 503), answer.text
            found += [answer] * (answer.status_code == 200)
            assert httpx.get(f"{url}/health", timeout=60).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) is not None


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="no such limit in this system")
def test_a_client_that_never_reads_is_cut(tmp_path):
    with (
        server(tmp_path / "log", max_client_seconds=1) as (url, process, _),
        connected(url, HEAD % len(LARGE) + LARGE) as client,
    ):
        client.recv(1, socket.MSG_PEEK)  # the response has begun to arrive; peeking does not consume it
        limit = time.monotonic() + 60
        while n_connections(process.pid, client.getsockname()[1]):
            assert time.monotonic() < limit, "the connection is still there"
            time.sleep(0.1)
        assert len(rest_of(client)) < 10**7  # the response was not sent completely


def n_connections(pid, port):
    """Return how many connections to a client's port the system lists for the process."""
    own = {str(file.readlink()) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()}
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[2].endswith(f":{port:04X}") and f"socket:[{line[9]}]" in own for line in lines)


def test_a_body_that_does_not_come_is_told_so(tmp_path):
    with server(tmp_path / "log", max_client_seconds=1) as (url, _, _), connected(url, HEAD % 100 + b"{") as client:
        answer = rest_of(client)
    assert b" 408 " in answer.splitlines()[0]
    assert b"within 1 seconds" in answer


# In this process, with pipelines made for the purpose


@contextlib.contextmanager
def client_of(load, **settings):
    from app import Settings, create_app

    server = uvicorn.Server(uvicorn.Config(create_app(Settings(**settings), load), log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=60) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def test_before_loading_ends_nothing_is_answered_and_the_stage_is_told():
    from pipeline import Pipeline

    stages, go_on = [], threading.Event()

    def slow(path, report):
        def reported(stage):
            report(stage)
            stages.append(stage)
            go_on.wait(60)

        return Pipeline(path, reported)

    with client_of(slow) as client:
        while not stages:
            time.sleep(0.01)
        assert client.get("/health").status_code == 200
        assert client.get("/ready").status_code == 503
        assert client.get("/ready").json()["stage"] == "importing spaCy and torch"
        refused = client.post("/process", json={"texts": ["a"]})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json() == {"error": "not ready: importing spaCy and torch"}
        go_on.set()
        while client.get("/ready").status_code != 200:
            time.sleep(0.01)
        assert client.post("/process", json={"texts": ["a"]}).status_code == 200
    assert stages == ["importing spaCy and torch", "reading the pipeline", "warming up"]


def test_a_pipeline_that_cannot_be_loaded_is_reported():
    from pipeline import Pipeline

    with client_of(Pipeline, pipeline="/no/such/pipeline") as client:
        while (health := client.get("/health")).status_code == 200:
            time.sleep(0.01)
        assert health.json()["status"] == "failed"
        assert "/no/such/pipeline" in health.json()["stage"]
        assert client.post("/process", json={"texts": ["a"]}).status_code == 503


def ready(client):
    while client.get("/ready").status_code != 200:
        time.sleep(0.01)
    return client


def test_a_pipeline_with_entities_and_classes_offers_them(tmp_path):
    made = spacy.blank("en")
    ruler = made.add_pipe("entity_ruler")
    categories = made.add_pipe("textcat")
    categories.add_label("A")
    categories.add_label("B")
    made.initialize()
    ruler.add_patterns([{"label": "ORG", "pattern": "the bank"}])
    made.to_disk(tmp_path / "made")
    from pipeline import Pipeline

    with client_of(Pipeline, pipeline=str(tmp_path / "made")) as client:
        assert ready(client).get("/health").json()["offers"] == ["entities", "classes"]
        (result,) = client.post("/process", json={"texts": ["From the bank."]}).json()["results"]
    doc = made("From the bank.")
    assert len(doc.ents) == 1
    assert result["entities"] == [{"text": "the bank", "label": "ORG", "start": 5, "end": 13}]
    assert result["classes"] == pytest.approx(doc.cats)


def failing_on_bad(path, report):
    def run(asked):
        if any(text == "bad" for text, _ in asked):
            raise ValueError("a secret of the server")
        return [json.dumps({"tokens": [text]}) for text, _ in asked]

    run.offers = ["vector"]
    return run


def test_a_failing_text_fails_its_own_request_only():
    with client_of(failing_on_bad, max_wait_ms=200) as client, ThreadPoolExecutor(3) as clients:
        ready(client)
        post = lambda text: client.post("/process", json={"texts": [text]})  # noqa: E731
        first, bad, last = clients.map(post, ["one", "bad", "two"])
    assert first.json() == {"results": [{"tokens": ["one"]}]}
    assert last.json() == {"results": [{"tokens": ["two"]}]}
    assert bad.status_code == 500
    assert "secret" not in bad.text


def test_more_than_may_wait_is_refused():
    with client_of(failing_on_bad, max_waiting_texts=2) as client:
        refused = ready(client).post("/process", json={"texts": ["a", "b", "c"]})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert client.post("/process", json={"texts": ["a", "b"]}).status_code == 200


def test_more_characters_than_may_wait_are_refused_unless_nothing_waits():
    async def main():
        from batcher import Batcher, OverloadedError

        async def run(items):
            return items

        limits = {"max_items": 9, "max_wait": 0.001, "max_waiting": 9, "max_size": 99, "max_waiting_size": 5}
        batcher = Batcher(run, size=len, **limits)
        large = asyncio.create_task(batcher.submit(["longer than 5"]))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await batcher.submit(["a"])
        working = asyncio.create_task(batcher.work())
        assert await large == ["longer than 5"]
        assert await batcher.submit(["a"]) == ["a"]
        batcher.close()
        await working

    asyncio.run(main())


def batches_of(sizes, **settings):
    """Return the batches for requests of these sizes that arrive at once."""
    from batcher import Batcher

    batches = []

    async def run(items):
        batches.append(len(items))
        return [item * 10 for item in items]

    async def main():
        batcher = Batcher(
            run,
            **{"max_items": 4, "max_wait": 0.001, "max_waiting": 100, "size": lambda item: item + 1, "max_size": 1000}
            | {"max_waiting_size": 1000}
            | settings,
        )
        asked = [asyncio.create_task(batcher.submit(list(range(size)))) for size in sizes]
        await asyncio.sleep(0)
        batcher.close()
        await batcher.work()
        return [await one for one in asked]

    answers = asyncio.run(main())
    assert answers == [[item * 10 for item in range(size)] for size in sizes]
    return batches


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([1], [1]), ([1, 2], [3]), ([1] * 9, [4, 4, 1]), ([3, 3, 1], [6, 1]), ([9, 1], [9, 1]), ([], [])],
)
def test_batches_are_as_large_as_asked(sizes, expected):
    assert batches_of(sizes) == expected


def test_large_items_make_small_batches():
    """The items of a request have the sizes 1, 2, 3."""
    assert batches_of([3, 3, 3, 3], max_items=100, max_size=7) == [6, 6]
