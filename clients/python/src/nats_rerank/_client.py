"""The asyncio client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Callable, Optional, TypeVar, Union

from nats.aio.client import Client

from ._connection import Connection
from ._core import OTHER_LOOP, Core
from ._options import Options
from ._types import Missing, Reranked

log = logging.getLogger("nats_rerank")

T = TypeVar("T")

SERVERS = "nats://127.0.0.1:4222"


class Reranker:
    """Puts search results in the order of a cross-encoder, or leaves them in theirs: a call never fails.

    Use one for the whole program; calls may be made side by side, on the event loop that it was made on (elsewhere they
    keep the ANN order and say so). Made by `Reranker.connect` or `Reranker.over`.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    @classmethod
    async def connect(
        cls,
        servers: Union[str, Sequence[str]] = SERVERS,
        options: Optional[Options] = None,
        *,
        lazy: bool = False,
        **nats_options: Any,
    ) -> Reranker:
        """Connects to NATS. A connection that is lost later is taken up again by itself.

        With `lazy` it returns at once and connects in the background; until then calls keep the ANN order
        (`disconnected`). `nats_options` go to nats-py's `connect`: `user_credentials`, `tls`, `inbox_prefix`, …

        Raises `ConnectError` if no server can be reached; `lazy`, only if the servers are no addresses.
        """
        core = Core(options or Options(), Connection(servers, nats_options))
        core.loop = asyncio.get_running_loop()
        await core.connection.open(lazy)
        core.watch_switch()
        return cls(core)

    @classmethod
    def over(cls, client: Client, options: Optional[Options] = None) -> Reranker:
        """Uses a connection that the program has already; closing the reranker leaves it open."""
        core = Core(options or Options(), Connection.over(client))
        # Without a running loop the first call says which one it is.
        with contextlib.suppress(RuntimeError):
            core.loop = asyncio.get_running_loop()
        core.watch_switch()
        return cls(core)

    async def rerank(
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
        """The first `top_k` of `documents` in the model's order, or as they came, with the reason; within the budget.

        `documents` are in ANN order: strings, mappings with a `text`, or anything that the function `text` gives a text
        of. `min_score` leaves out items with a lower score, as it is returned; those without a score stay. The other
        arguments are as in `Options`, for this call. Nothing is raised but what iterating over
        `documents` raises, and `CancelledError` when the caller's task is cancelled.
        """
        core = self._core
        if core.loop is None:
            core.loop = asyncio.get_running_loop()
        call = core.begin(query, documents, top_k, text, budget_ms, raw_scores, truncate, model, min_score)
        if isinstance(call, Reranked):
            return call
        try:
            await core.exchange(call)
            return core.finish(call)
        except Exception as error:
            log.exception("not reranked")
            return call.ann(Missing("refused", "internal", type(error).__name__))
        finally:
            # Nothing is left to record, unless the caller's task was cancelled.
            core.abandon(call)

    async def close(self) -> None:
        """Ends the connection, unless it is the program's own. Calls from here on keep the ANN order.

        Raises `RuntimeError` on another event loop than its own, where it could end nothing.
        """
        if self._core.loop not in (None, asyncio.get_running_loop()):
            raise RuntimeError(f"a Reranker is {OTHER_LOOP}")
        await self._core.close()

    async def __aenter__(self) -> Reranker:
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self.close()
