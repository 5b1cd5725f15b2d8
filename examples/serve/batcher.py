"""Collect requests that arrive together, and answer all of them with one call."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class OverloadedError(Exception):
    """As many items are waiting as may wait."""


@dataclass
class Counts:
    """What has been done so far."""

    requests: int = 0
    items: int = 0
    batches: int = 0
    largest_batch: int = 0


@dataclass(frozen=True)
class _Request(Generic[Item, Result]):
    items: list[Item]
    answer: "asyncio.Future[list[Result]]"


class Batcher(Generic[Item, Result]):
    """Collects the items of requests for a moment and gives them to `run` in one call.

    Requests that arrive during a call are collected for the next one. So under load nothing waits for the clock.

    run: turns items into as many results.
    max_items: a batch is closed once it has this many; the last request may exceed it.
    size, max_size: the same for the total size of the items, so that all batches take about equally long.
    max_wait: seconds to wait for more requests.
    max_waiting, max_waiting_size: items that may wait, and their total size. If there are more, `submit` raises an
        `OverloadedError`. One request may always wait.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[list[Result]]],
        max_items: int,
        max_wait: float,
        max_waiting: int,
        size: Callable[[Item], int],
        max_size: int,
        max_waiting_size: int,
    ) -> None:
        self.counts = Counts()
        self._run = run
        self._max_items, self._max_wait, self._max_waiting = max_items, max_wait, max_waiting
        self._size, self._max_size, self._max_waiting_size = size, max_size, max_waiting_size
        self._queue: asyncio.Queue[_Request[Item, Result] | None] = asyncio.Queue()
        self.waiting = 0  # items
        self._waiting_size = 0

    async def submit(self, items: list[Item]) -> list[Result]:
        """Return the results of these items, in their order."""
        size = sum(map(self._size, items))
        is_large = self._waiting_size and self._waiting_size + size > self._max_waiting_size
        if is_large or self.waiting + len(items) > self._max_waiting:
            raise OverloadedError(f"{self.waiting} texts are already waiting; try again later")
        request = _Request[Item, Result](items, asyncio.get_running_loop().create_future())
        self.waiting += len(items)
        self._waiting_size += size
        self._queue.put_nowait(request)
        return await request.answer

    async def work(self) -> None:
        """Answer requests until `close`."""
        while requests := await self._collect():
            self.counts.requests += len(requests)
            self.counts.batches += 1
            self.counts.largest_batch = max(self.counts.largest_batch, sum(len(one.items) for one in requests))
            if not await self._answer(requests) and len(requests) > 1:
                for request in requests:  # one of them failed; the others must not suffer
                    await self._answer([request])

    def close(self) -> None:
        """End `work` once it has answered what is waiting."""
        self._queue.put_nowait(None)

    async def _collect(self) -> list[_Request[Item, Result]]:
        """Wait for requests; return an empty list if there will be no more."""
        request = await self._queue.get()
        if request is not None and self.waiting < self._max_items:
            await asyncio.sleep(self._max_wait)
        requests: list[_Request[Item, Result]] = []
        n_items = size = 0
        while request is not None:
            requests.append(request)
            n_items += len(request.items)
            size += sum(map(self._size, request.items))
            if n_items >= self._max_items or size >= self._max_size or self._queue.empty():
                break
            request = self._queue.get_nowait()
        if request is None and requests:
            self.close()  # so that the end is found again after this batch
        self.waiting -= n_items
        self._waiting_size -= size
        return requests

    async def _answer(self, requests: list[_Request[Item, Result]]) -> bool:
        """Answer these requests with one call; return whether it succeeded. A single request gets the exception."""
        items = [item for request in requests for item in request.items]
        try:
            answers = await self._run(items)
            if len(answers) != len(items):
                raise RuntimeError(f"{len(answers)} results for {len(items)} items")
        except Exception as error:
            if len(requests) == 1 and not requests[0].answer.done():
                requests[0].answer.set_exception(error)
            return False
        self.counts.items += len(items)
        results = iter(answers)
        for request in requests:
            part = list(itertools.islice(results, len(request.items)))
            if not request.answer.done():  # the client may be gone
                request.answer.set_result(part)
        return True
