"""A connection to NATS that is kept up: taken up again when it is lost, and made anew when the server ends it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional, Union
from urllib.parse import urlsplit

from nats.aio.client import Client

log = logging.getLogger("nats_rerank")

CONNECT_TIMEOUT_S = 2
RECONNECT_WAIT_S = 0.5
# A server that is gone without a word is noticed after about a minute; until then, calls time out.
PING_INTERVAL_S = 20
PENDING_BYTES_MAX = 16 * 1024 * 1024
"""What may wait to be written. Past it the server does not read, and nothing more is put behind it."""
CLOSE_S_MAX = 2.0


class ConnectError(Exception):
    """There is no connection to NATS, or the client cannot be made with these servers."""


def server_list(servers: Union[str, Sequence[str]]) -> list[str]:
    """The servers, each checked to be an address."""
    given = [servers] if isinstance(servers, str) else list(servers)
    if not given:
        raise ConnectError("no NATS server is named")
    for server in given:
        try:
            parts = urlsplit(server if "://" in server else f"nats://{server}")
            known = parts.scheme in ("nats", "tls", "ws", "wss") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            known = False
        if not known:
            raise ConnectError("a NATS server is named by `nats://host:port` (or `tls://`, `ws://`, `wss://`)")
    return given


def _shown(servers: Sequence[str]) -> str:
    """The servers without user names, passwords and tokens."""
    return ", ".join(server.rpartition("@")[2].rpartition("//")[2] for server in servers)


class Connection:
    """At most one connection at a time."""

    def __init__(self, servers: Union[str, Sequence[str]], nats_options: Mapping[str, Any]) -> None:
        self._servers = server_list(servers)
        self._nats_options = nats_options
        try:
            inspect.signature(Client.connect).bind(None, **nats_options)
        except TypeError as error:
            raise ConnectError(f"not an option of nats-py's connect: {error}") from None
        self._client: Optional[Client] = None
        self._keeper: Optional[asyncio.Task[None]] = None
        self.on_lost: Optional[Callable[[], None]] = None
        """Called when the connection is lost: what was asked over it is not answered any more."""

    @classmethod
    def over(cls, client: Client) -> Connection:
        """The caller's own connection, which is left to the caller to keep and to close."""
        connection = cls("nats://unused", {})
        connection._client = client
        return connection

    @property
    def client(self) -> Optional[Client]:
        """The connection, if it is up now."""
        client = self._client
        return client if client is not None and client.is_connected else None

    async def open(self, lazy: bool) -> None:
        """Starts to connect; unless `lazy`, waits until it has, or each server has failed once."""
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.create_task(self._keep(first))
        if lazy:
            first.cancel()
            return
        timeout_s = (CONNECT_TIMEOUT_S + RECONNECT_WAIT_S) * (len(self._servers) + 1)
        try:
            await asyncio.wait_for(first, timeout_s)
        except BaseException as error:
            await self.close()
            if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt, SystemExit)):
                raise
            why = str(error) or type(error).__name__
            raise ConnectError(f"cannot connect to NATS at {_shown(self._servers)}: {why}") from error

    async def close(self) -> None:
        """Ends the connection, unless it is the caller's own. Bounded in time."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper}, timeout=2 * CLOSE_S_MAX)

    async def _keep(self, first: asyncio.Future[None]) -> None:
        complaint = ""
        while True:
            client = Client()
            self._client = client
            closed = asyncio.Event()
            try:
                await self._connect(client, closed, first)
                if not first.done():
                    first.set_result(None)
                complaint = ""
                await closed.wait()
                log.warning("the NATS server ended the connection; connecting anew")
            except Exception as error:
                if not first.done():
                    first.set_exception(error)
                # Once for each reason, not for each try.
                if complaint != str(error):
                    complaint = str(error)
                    log.warning("cannot connect to NATS: %s", complaint)
            finally:
                await _close(client)
            await asyncio.sleep(RECONNECT_WAIT_S)

    async def _connect(self, client: Client, closed: asyncio.Event, first: asyncio.Future[None]) -> None:
        failures = 0

        async def on_error(error: Exception) -> None:
            nonlocal failures
            failures += 1
            log.debug("NATS: %s", error)
            if failures >= len(self._servers) and not first.done():
                first.set_exception(error)

        async def on_lost() -> None:
            if self.on_lost is not None:
                self.on_lost()

        async def on_closed() -> None:
            closed.set()

        settings: dict[str, Any] = {
            "name": "nats-rerank-client",
            "connect_timeout": CONNECT_TIMEOUT_S,
            "reconnect_time_wait": RECONNECT_WAIT_S,
            "ping_interval": PING_INTERVAL_S,
            # Above our own bound, so that publishing never waits for the socket.
            "pending_size": 2 * PENDING_BYTES_MAX,
            **self._nats_options,
            "max_reconnect_attempts": -1,
            "error_cb": on_error,
            "disconnected_cb": on_lost,
            "closed_cb": on_closed,
        }
        await client.connect(list(self._servers), **settings)


async def _close(client: Client) -> None:
    async def quietly() -> None:
        with contextlib.suppress(Exception):
            await client.close()

    # Closing writes what is pending, which a server that hangs does not take: not waited for.
    await asyncio.wait({asyncio.create_task(quietly())}, timeout=CLOSE_S_MAX)
