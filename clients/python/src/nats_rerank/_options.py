"""How calls are made. Everything is checked here, before anything is connected."""

from __future__ import annotations

import math
import numbers
import os
import re
from dataclasses import dataclass, field
from typing import Optional

SUBJECT = "rerank.v1.score"
ENABLED = "RERANK_ENABLED"
"""The variable of the environment, the worker's too."""
BUDGET_MS_MAX = 24 * 60 * 60 * 1000.0
"""The longest budget that workers tell apart."""


@dataclass(frozen=True)
class BreakerOptions:
    """When calls stop asking for a while, because asking has been of no use.

    A call has failed if the fleet let it down: no scores for at least half of its candidates, for want of an answer, a
    worker, room or time, or by a bad reply; or, with `slow_ms`, an answer that took longer. Not held against the fleet:
    a refusal that is the caller's own doing (`invalid_request`, `unknown_model`, `too_large`), a call that had less
    than half of `Options.budget_ms`, and a lost connection, which costs no time.
    """

    enabled: bool = True
    """False: every call asks."""
    calls: int = 20
    """How many of the last calls are looked at."""
    calls_min: int = 5
    """Fewer calls than this open nothing."""
    failure_percent: float = 50.0
    """The share of failures, in per cent, from which the circuit opens."""
    slow_ms: Optional[float] = None
    """An answer that took longer counts as a failure; None: none does."""
    pause_ms_min: float = 500.0
    """How long the circuit stays open before one call is let through as a probe. One that succeeds closes it."""
    pause_ms_max: float = 5000.0
    """Each probe that fails doubles the pause, up to this."""

    def __post_init__(self) -> None:
        _check("breaker.calls", self.calls, 1, 10_000, whole=True)
        _check("breaker.calls_min", self.calls_min, 1, self.calls, whole=True)
        _check("breaker.failure_percent", self.failure_percent, 1, 100)
        if self.slow_ms is not None:
            _check("breaker.slow_ms", self.slow_ms, 0.001, BUDGET_MS_MAX)
        _check("breaker.pause_ms_min", self.pause_ms_min, 1, BUDGET_MS_MAX)
        _check("breaker.pause_ms_max", self.pause_ms_max, self.pause_ms_min, BUDGET_MS_MAX)


@dataclass(frozen=True)
class Options:
    """How calls are made; `ValueError` names what is out of range."""

    subject: str = SUBJECT
    """The subject that the workers listen on: one for each model."""
    budget_ms: float = 250.0
    """The time that a call may take in all. What is left of it when a request leaves is told to the worker."""
    raw_scores: bool = False
    """True: scores are the model's logits; False: the logits after the model's own activation."""
    truncate: bool = True
    """False: a pair that is longer than the model's limit has the call refused, in place of being cut."""
    model: Optional[str] = None
    """The model that has to answer, by its id or alias; workers of another refuse (`unknown_model`)."""
    retries_max: int = 2
    """How often a request that a full or stopping worker refused (`overloaded`, `unavailable`) is sent once more,
    within the same budget."""
    parts_max: int = 8
    """Into how many requests a list that is larger than one NATS message may be split."""
    enabled: bool = True
    """False: nothing is asked (`switched_off`). `RERANK_ENABLED` in the environment wins over this, so that whoever
    runs a program can switch it off; and the live switch wins over both."""
    read_environment: bool = True
    """False: `RERANK_ENABLED` is not looked at."""
    switch_bucket: Optional[str] = None
    """A JetStream KV bucket whose key `enabled` (`true`, `false`) switches calls on and off while the program runs."""
    breaker: BreakerOptions = field(default_factory=BreakerOptions)
    """When calls stop asking for a while."""

    def __post_init__(self) -> None:
        tokens = self.subject.split(".")
        if not all(tokens) or {"*", ">"} & set(tokens) or re.search(r"\s", self.subject):
            raise ValueError(f"subject: {self.subject!r} is not a subject that can be published to")
        _check("budget_ms", self.budget_ms, 0.001, BUDGET_MS_MAX)
        _check("retries_max", self.retries_max, 0, 2, whole=True)
        _check("parts_max", self.parts_max, 1, 64, whole=True)
        if self.switch_bucket is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", self.switch_bucket):
            raise ValueError("switch_bucket: expected letters, digits, `-` and `_`")
        self.is_enabled()

    def is_enabled(self) -> bool:
        """What holds unless the live switch says otherwise."""
        written = os.environ.get(ENABLED, "") if self.read_environment else ""
        if not written:
            return self.enabled
        word = written.strip().lower()
        if word not in ("true", "1", "yes", "on", "false", "0", "no", "off"):
            raise ValueError(f"{ENABLED}: expected true or false (or 1, yes, on, 0, no, off)")
        return word in ("true", "1", "yes", "on")


def _check(name: str, value: float, lowest: float, highest: float, whole: bool = False) -> None:
    # Numbers of numpy are numbers; True and False are none.
    kind = numbers.Integral if whole else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind) or math.isnan(value) or not lowest <= value <= highest:
        what = "a whole number" if whole else "a number"
        raise ValueError(f"{name}: expected {what} from {lowest:g} to {highest:g}")
