"""What a call brings back: the caller's items in their order, and how that order came about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, Optional, TypeVar

T = TypeVar("T")

Order = Literal["model", "ann"]
"""Whose order the items are in: the model's, or that of the search before."""

Reason = Literal[
    "timed_out",
    "no_responders",
    "refused",
    "disconnected",
    "bad_reply",
    "circuit_open",
    "switched_off",
]
"""Why there is no ranking. With `refused`, the kind says more."""

RefusalKind = Literal[
    "invalid_request",
    "unknown_model",
    "too_large",
    "overloaded",
    "unavailable",
    "deadline_exceeded",
    "internal",
]
"""Why a request was refused, by a worker or, before it was sent, by this client (`invalid_request`, `too_large`)."""


@dataclass(frozen=True)
class Ranked(Generic[T]):
    """An item in its new place."""

    item: T
    """The caller's own item."""
    index: int
    """Its place in the call's documents, from 0: its place in ANN order."""
    score: Optional[float]
    """How well it answers the query; finite. None in ANN order, and for what was not scored (`Reranked.partial`)."""


@dataclass(frozen=True)
class Partial:
    """That some of the candidates have no score."""

    unscored: int
    """How many candidates of the call have none. With `top_k`, `items` may hold fewer of them, or none."""
    reason: Reason
    """Why; of several reasons, that of the earliest candidates."""
    kind: Optional[RefusalKind] = None
    """With the reason `refused`: what kind of refusal."""


@dataclass(frozen=True)
class Reranked(Generic[T]):
    """The caller's items after a call, whatever became of it.

    In the model's order: best first, then what has no score, in ANN order. In ANN order: the first `top_k` of the items
    as they came, without scores.
    """

    items: list[Ranked[T]]
    """The items in their order, at most `top_k`."""
    order: Order
    """Whose order it is. (A call with nothing to put in order is in the model's.)"""
    reason: Optional[Reason] = None
    """In ANN order: why."""
    kind: Optional[RefusalKind] = None
    """With the reason `refused`: what kind of refusal."""
    detail: Optional[str] = None
    """Why there is no ranking, or not a whole one, in words for people and logs. Bounded; holds no request content."""
    partial: Optional[Partial] = None
    """In the model's order: that some candidates have no score, and why."""
    model: Optional[str] = None
    """The model that gave the scores."""
    workers: tuple[str, ...] = ()
    """The ids of the workers that gave the scores, each once."""
    below_min_score: int = 0
    """How many of the best `top_k` are not among `items`, for a score below the call's `min_score`."""
    elapsed_ms: float = 0.0
    """The time that the call took in all."""

    @property
    def is_reranked(self) -> bool:
        """Whether the model ordered the items (all of them, but for `partial`)."""
        return self.order == "model"

    @property
    def documents(self) -> list[T]:
        """The items alone, in their order."""
        return [ranked.item for ranked in self.items]

    def __iter__(self) -> Iterator[Ranked[T]]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class Missing(NamedTuple):
    """Why a request brought no scores."""

    reason: Reason
    kind: Optional[RefusalKind] = None
    detail: Optional[str] = None
    scope: Optional[str] = None
    """Of a refusal: `request` where an idle worker would have refused it as well, else `worker`."""
