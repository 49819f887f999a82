"""The live switch: the key `enabled` of a JetStream KV bucket turns calls off and on while the program runs."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import Iterable
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
# Revisions of a key that a bucket keeps at most.
HISTORY_MAX = 64


class Said(enum.Enum):
    """What one revision of the key says."""

    ON = enum.auto()
    OFF = enum.auto()
    NOTHING = enum.auto()
    """The key was deleted, or never set."""
    GARBAGE = enum.auto()

    @staticmethod
    def of(value: Optional[bytes]) -> Said:
        """Reads a value; None where there is none."""
        if value is None:
            return Said.NOTHING
        return {b"true": Said.ON, b"false": Said.OFF}.get(value.strip(), Said.GARBAGE)


class Reading:
    """What a reader of the key knows.

    Garbage leaves in force the last good value since the key was last deleted; where none is known, calls are off.
    """

    def __init__(self, configured: bool) -> None:
        self._configured = configured
        self._good: Optional[bool] = None
        self.garbage: Optional[int] = None
        """The revision of the garbage that was dealt with last."""

    @property
    def knows_good(self) -> bool:
        """Whether there is a good value since the key was last deleted."""
        return self._good is not None

    def take(self, said: Said) -> bool:
        """Takes note of what the key says now. Returns what is in force."""
        self.remember([said])
        if said is Said.NOTHING:
            return self._configured
        return bool(self._good)

    def remember(self, before: Iterable[Said]) -> None:
        """Takes note of what the bucket remembers, oldest first."""
        for said in before:
            if said is not Said.GARBAGE:
                self._good = None if said is Said.NOTHING else said is Said.ON


class Switch:
    """Whether calls ask: what was configured, until the bucket says otherwise, and again once the key is deleted.

    What the bucket said last holds while JetStream is away. See `Reading` for a key that holds garbage.
    """

    def __init__(self, configured: bool) -> None:
        self.enabled = configured
        self._reading = Reading(configured)
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
                        await self._take(store, await _present(store))
                    continue
                on_alive()
                if entry is not None:
                    exists = True
                    await self._take(store, entry)
                elif not exists:
                    # The mark behind the present value, and there was none.
                    await self._take(store, None)
        finally:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(watcher.stop(), 1.0)

    async def _take(self, store: KeyValue, entry: Optional[KeyValue.Entry]) -> None:
        """What the key holds now; None where there is none."""
        said = _said(entry)
        # At once, and before anything is looked up: what is not known to be good is off.
        self.enabled = self._reading.take(said)
        if entry is None or said is not Said.GARBAGE or self._reading.garbage == entry.revision:
            return
        try:
            self._reading.remember(await _history(store, entry.revision or 0))
            self._reading.garbage = entry.revision
        except Exception as error:
            # Looked up again the next time.
            log.debug("the history of the live switch cannot be read: %s", type(error).__name__)
        self.enabled = self._reading.take(said)
        log.error(
            "the live switch holds neither `true` nor `false` (revision %s): %s, so enabled=%s",
            entry.revision,
            "the last good value holds" if self._reading.knows_good else "no good value is known",
            self.enabled,
        )


def _said(entry: Optional[KeyValue.Entry]) -> Said:
    if entry is None or entry.operation is not None:
        return Said.NOTHING
    return Said.of(entry.value or b"")


async def _present(store: KeyValue) -> Optional[KeyValue.Entry]:
    try:
        return await store.get(KEY)
    except KeyNotFoundError:
        return None


async def _history(store: KeyValue, revision: int) -> list[Said]:
    """What the bucket remembers of the key before `revision`, oldest first."""
    before: list[Said] = []
    watcher: Any = await store.watch(KEY, include_history=True)
    try:
        while len(before) < HISTORY_MAX:
            entry = await watcher.updates(timeout=ANSWER_S_MAX)
            # None: the mark behind the present value.
            if entry is None or entry.revision >= revision:
                break
            before.append(_said(entry))
    finally:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(watcher.stop(), 1.0)
    return before
