"""The circuit breaker: after persistent failures, calls cost microseconds until the fleet answers again."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from typing import Callable, Optional

from ._options import BreakerOptions


class Permit:
    """That a call may ask. It has to be given back by `Breaker.record`; only the first time counts."""

    __slots__ = ("generation", "is_probe", "is_recorded")

    def __init__(self, generation: int, is_probe: bool) -> None:
        self.generation = generation
        self.is_probe = is_probe
        self.is_recorded = False


class Breaker:
    """Closed: every call asks. Open: none. Half-open: one at a time tries whether asking is of use again.

    Safe for use by several threads: the blocking client asks it from its callers' threads.
    """

    def __init__(self, options: BreakerOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self.opened_by: Optional[str] = None
        """Why it opened, until it closes again."""
        self._options = options
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: deque[bool] = deque(maxlen=options.calls)
        # Each change of state starts a generation; what was asked in an earlier one says nothing about the present.
        self._generation = 0
        self._open_until: Optional[float] = None
        self._pause_ms = options.pause_ms_min
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether calls are being turned away, but for probes."""
        return self._open_until is not None

    def admit(self) -> Optional[Permit]:
        """A permit to ask, or None while the circuit is open."""
        if not self._options.enabled:
            return Permit(0, False)
        with self._lock:
            if self._open_until is None:
                return Permit(self._generation, False)
            if self._probing or self._clock() < self._open_until:
                return None
            self._probing = True
            return Permit(self._generation, True)

    def record(self, permit: Permit, failed: Optional[bool], elapsed_ms: float, cause: Optional[str] = None) -> None:
        """What became of the call; `failed` is None where that says nothing about the fleet; `cause` is why."""
        if not self._options.enabled:
            return
        slow_ms = self._options.slow_ms
        if failed is False and slow_ms is not None and elapsed_ms > slow_ms:
            failed, cause = True, "slow"
        with self._lock:
            if permit.is_recorded or permit.generation != self._generation:
                return
            permit.is_recorded = True
            if permit.is_probe:
                self._probing = False
                if failed:
                    self._open(cause)
                elif failed is False:
                    self._close()
                return
            if failed is None:
                return
            self._failures.append(failed)
            known = len(self._failures)
            share = 100 * sum(self._failures) / known
            if failed and known >= self._options.calls_min and share >= self._options.failure_percent:
                self._open(cause)

    def _open(self, cause: Optional[str]) -> None:
        self._generation += 1
        # Probes that fail later change nothing about what it was.
        self.opened_by = self.opened_by or cause
        # Programs that were let down together must not come back together.
        self._open_until = self._clock() + self._pause_ms / 1e3 * random.uniform(0.8, 1.0)
        self._pause_ms = min(self._pause_ms * 2, self._options.pause_ms_max)

    def _close(self) -> None:
        self._generation += 1
        self._open_until = None
        self.opened_by = None
        self._pause_ms = self._options.pause_ms_min
        self._failures.clear()


SIZE_CLASSES = 8
"""Sizes of calls that have a circuit each: up to 4 KiB of text in their pairs, up to 16 KiB, and so on, times four.

That a list of a thousand candidates was not answered in time says nothing about lists of two dozen.
"""


def size_class(pair_bytes: int) -> int:
    """The class of a call whose pairs hold so many bytes of text (or characters: it need not be exact)."""
    bits = max(pair_bytes - 1, 0).bit_length() - 12
    return min((max(bits, 0) + 1) // 2, SIZE_CLASSES - 1)
