"""Send a running server requests from many clients at once, and print how many it answers per second and how fast.

python examples/serve/load.py --clients 16 --requests 400 --texts 4
"""

import argparse
import asyncio
import csv
import itertools
import json
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

QUESTIONS = Path(__file__).resolve().parent.parent / "pretrain_domain" / "banking.csv"


def read_texts(path: Path) -> list[str]:
    """Read the column `text` of a CSV file."""
    with path.open(encoding="utf8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


async def ask(url: str, bodies: Iterator[dict[str, list[str]]], clients: int) -> tuple[list[float], float]:
    """Send all bodies, each client one at a time; return the seconds that each took, and that all took together."""
    seconds: list[float] = []
    tls = httpx.create_ssl_context()  # takes longer to make than a request

    async def one_client(http: httpx.AsyncClient) -> None:
        for body in bodies:
            start = time.perf_counter()
            response = await http.post("/process", json=body)
            response.raise_for_status()
            seconds.append(time.perf_counter() - start)

    async with AsyncExitStack() as stack:
        # One connection pool per client: a shared one is slower than the server.
        https = [httpx.AsyncClient(base_url=url, timeout=60, verify=tls) for _ in range(clients)]
        for http in https:
            await stack.enter_async_context(http)
        start = time.perf_counter()
        await asyncio.gather(*map(one_client, https))
        return seconds, time.perf_counter() - start


def measure(url: str, texts: list[str], clients: int, requests: int, per_request: int, want: str) -> dict[str, float]:
    """Return requests and texts per second, milliseconds per request (median, 95th percentile), and texts per batch."""
    supply = itertools.cycle(texts)
    bodies = [{"texts": list(itertools.islice(supply, per_request)), "want": [want]} for _ in range(requests)]
    before = httpx.get(f"{url}/health").json()
    seconds, passed = asyncio.run(ask(url, iter(bodies), clients))
    seconds.sort()
    after = httpx.get(f"{url}/health").json()
    return {
        "clients": clients,
        "requests_per_second": round(requests / passed, 1),
        "texts_per_second": round(requests * per_request / passed, 1),
        "median_ms": round(1000 * seconds[len(seconds) // 2], 1),
        "p95_ms": round(1000 * seconds[int(0.95 * (len(seconds) - 1))], 1),
        "texts_per_batch": round((after["items"] - before["items"]) / (after["batches"] - before["batches"]), 1),
    }


def main() -> None:
    """Parse arguments, measure, and print a line of JSON for each number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--texts", type=int, default=1, help="texts per request")
    parser.add_argument("--want", default="vector", choices=["vector", "vectors", "entities", "classes"])
    parser.add_argument("--csv", type=Path, default=QUESTIONS, help="texts, in a column named text")
    options = parser.parse_args()
    texts = read_texts(options.csv)
    for clients in options.clients:
        print(json.dumps(measure(options.url, texts, clients, options.requests, options.texts, options.want)))


if __name__ == "__main__":
    main()
