"""The live switch: the key `enabled` of a JetStream KV bucket turns calls off and on while the program runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Callable, Optional

from nats.aio.client import Client
from nats.errors import TimeoutError as NatsTimeout
from nats.js.errors import KeyNotFoundError
from nats.js.kv import KeyValue

from ._connection import Connection

log = logging.getLogger("nats_rerank")

KEY = "enabled"
PAUSE_S_MIN = 0.25
PAUSE_S_MAX = 10.0
ANSWER_S_MAX = 5.0
# A watch that has died without a word is noticed by looking at the key itself.
LOOK_EVERY_S = 10


class Switch:
    """Whether calls ask: what was configured, until the bucket says otherwise, and again once the key is deleted.

    What the bucket said last holds while JetStream is away.
    """

    def __init__(self, configured: bool) -> None:
        self.enabled = configured
        self._configured = configured
        self._task: Optional[asyncio.Task[None]] = None

    def watch(self, connection: Connection, bucket: str) -> None:
        """Starts to follow the bucket's key, until `close`."""
        self._task = asyncio.create_task(self._keep(connection, bucket))

    async def close(self) -> None:
        """Stops following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=ANSWER_S_MAX)

    async def _keep(self, connection: Connection, bucket: str) -> None:
        pause_s = PAUSE_S_MIN
        complained = False

        def on_alive() -> None:
            nonlocal pause_s, complained
            if complained:
                log.info("the live switch in bucket %s is back", bucket)
            pause_s, complained = PAUSE_S_MIN, False

        while True:
            client = connection.client
            if client is not None:
                try:
                    await self._follow(client, bucket, on_alive)
                except Exception as error:
                    # Once for each loss, not for each try.
                    if not complained:
                        log.warning(
                            "the live switch in bucket %s is out of reach (%s): what holds now (enabled=%s) holds on",
                            bucket,
                            type(error).__name__,
                            self.enabled,
                        )
                    complained = True
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_S_MAX) if client is not None else PAUSE_S_MIN

    async def _follow(self, client: Client, bucket: str, on_alive: Callable[[], None]) -> None:
        """Follows the key until the connection was lost; raises when JetStream is away."""
        reconnects = client.stats["reconnects"]
        store = await client.jetstream(timeout=ANSWER_S_MAX).key_value(bucket)
        watcher: Any = await store.watch(KEY)
        quiet_s = 0
        exists = False
        try:
            while client.is_connected and client.stats["reconnects"] == reconnects:
                try:
                    entry = await watcher.updates(timeout=1.0)
                except NatsTimeout:
                    quiet_s += 1
                    if quiet_s % LOOK_EVERY_S == 0:
                        self._take(await _present(store))
                    continue
                on_alive()
                if entry is not None:
                    exists = True
                    self._take(entry.value if entry.operation is None else None)
                elif not exists:
                    # The mark behind the present value, and there was none.
                    self._take(None)
        finally:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(watcher.stop(), 1.0)

    def _take(self, value: Optional[bytes]) -> None:
        """What the key holds now; None where there is none."""
        if value is None:
            self.enabled = self._configured
        elif value.strip() in (b"true", b"false"):
            self.enabled = value.strip() == b"true"
        else:
            log.warning("the live switch holds neither `true` nor `false`: ignored")


async def _present(store: KeyValue) -> Optional[bytes]:
    try:
        return (await store.get(KEY)).value
    except KeyNotFoundError:
        return None
