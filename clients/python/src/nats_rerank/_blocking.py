"""The same for programs without asyncio: the connection lives on a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Any, Callable, Optional, TypeVar, Union

from ._client import SERVERS
from ._connection import Connection
from ._core import Core
from ._options import Options
from ._types import Missing, Reranked

log = logging.getLogger("nats_rerank")

T = TypeVar("T")
R = TypeVar("R")

CLOSE_S_MAX = 10.0


class BlockingReranker:
    """As `Reranker`, with calls that block their thread for the budget at most. Safe for use by several threads.

    A process that forks makes its own after the fork: in the child of one that had one, calls keep the ANN order
    (`disconnected`).
    """

    def __init__(self, core: Core, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        self._core = core
        self._loop = loop
        self._thread = thread

    @classmethod
    def connect(
        cls,
        servers: Union[str, Sequence[str]] = SERVERS,
        options: Optional[Options] = None,
        *,
        lazy: bool = False,
        **nats_options: Any,
    ) -> BlockingReranker:
        """As `Reranker.connect`."""
        core = Core(options or Options(), Connection(servers, nats_options))
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_run, args=(loop,), name="nats-rerank", daemon=True)
        thread.start()
        reranker = cls(core, loop, thread)

        async def open_connection() -> None:
            await core.connection.open(lazy)
            core.watch_switch()

        try:
            reranker._wait(open_connection(), None)
        except BaseException:
            reranker.close()
            raise
        return reranker

    def rerank(
        self,
        query: str,
        documents: Iterable[T],
        top_k: Optional[int] = None,
        *,
        text: Optional[Callable[[T], str]] = None,
        budget_ms: Optional[float] = None,
        raw_scores: Optional[bool] = None,
        truncate: Optional[bool] = None,
        model: Optional[str] = None,
        min_score: Optional[float] = None,
    ) -> Reranked[T]:
        """As `Reranker.rerank`. Must not be called on a thread that runs an event loop: it would block the loop."""
        core = self._core
        call = core.begin(query, documents, top_k, text, budget_ms, raw_scores, truncate, model, min_score)
        if isinstance(call, Reranked):
            return call
        try:
            if not self._thread.is_alive():
                return call.ann(Missing("disconnected"))
            with contextlib.suppress(concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
                self._wait(core.exchange(call), max(0.0, call.left_s))
            return core.finish(call)
        except Exception as error:
            log.exception("not reranked")
            return call.ann(Missing("refused", "internal", type(error).__name__))
        finally:
            core.abandon(call)

    def close(self) -> None:
        """Ends the connection and its thread. Calls from here on keep the ANN order."""
        if not self._thread.is_alive():
            return
        try:
            self._wait(self._core.close(), CLOSE_S_MAX)
        except concurrent.futures.TimeoutError:
            log.warning("the connection to NATS did not close in time")
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_S_MAX)

    def _wait(self, work: Coroutine[Any, Any, R], timeout_s: Optional[float]) -> R:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except BaseException:
            future.cancel()
            raise

    def __enter__(self) -> BlockingReranker:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
        loop.close()
