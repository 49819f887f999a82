"""One call, in three steps: `begin` and `finish` compute, `exchange` waits; so a blocking client can share them."""

from __future__ import annotations

import asyncio
import logging
import numbers
import random
import time
from collections.abc import Iterable, Mapping
from typing import Any, Callable, Generic, Optional, TypeVar, Union

from nats.aio.client import Client
from nats.errors import MaxPayloadError, NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from ._breaker import SIZE_CLASSES, Breaker, Permit, size_class
from ._connection import PENDING_BYTES_MAX, Connection
from ._options import BUDGET_MS_MAX, Options
from ._switch import Switch
from ._types import Missing, Partial, Ranked, Reranked
from ._wire import Part, Scores, activated, open_reply, request_headers, split

log = logging.getLogger("nats_rerank")

T = TypeVar("T")

OTHER_LOOP = (
    "used on another event loop than the one that it was made on: make a Reranker there, or use BlockingReranker"
)
TOO_LARGE = Missing("refused", "too_large", "larger than NATS messages may be", "request")
QUICK_MS_MAX = 100.0
"""A refusal that took no longer, nor a tenth of the budget, cost nothing that a circuit could save."""
RETRY_PAUSE_MS_MAX = 5.0
"""Before a retry, up to so long at random: callers that were refused together shall not come back together."""


class Call(Generic[T]):
    """What is known of a call so far."""

    def __init__(self, items: list[T], top_k: Optional[int], began: float) -> None:
        self.items = items
        self.top_k = top_k
        self.began = began
        self.deadline = began
        self.client: Optional[Client] = None
        self.breaker: Optional[Breaker] = None
        self.permit: Optional[Permit] = None
        self.counts = True
        """Whether a failure is held against the fleet."""
        self.raw_scores = False
        self.min_score: Optional[float] = None
        self.parts: list[Part] = []
        self.outcomes: dict[int, Union[Scores, Missing]] = {}
        self.tasks: list[asyncio.Future[None]] = []

    @property
    def elapsed_ms(self) -> float:
        return (time.monotonic() - self.began) * 1e3

    @property
    def left_s(self) -> float:
        """What is left of the budget, in seconds; below zero once it is spent."""
        return self.deadline - time.monotonic()

    def ann(self, missing: Missing) -> Reranked[T]:
        """The first `top_k` items as they came."""
        items = self.items if self.top_k is None else self.items[: self.top_k]
        ranked = [Ranked(item, index, None) for index, item in enumerate(items)]
        return Reranked(ranked, "ann", missing.reason, missing.kind, missing.detail, elapsed_ms=self.elapsed_ms)


class Core:
    """What the clients share: options, switch, breaker and connection."""

    def __init__(self, options: Options, connection: Connection) -> None:
        self.options = options
        self.connection = connection
        self.breakers = [Breaker(options.breaker) for _ in range(SIZE_CLASSES)]
        """A circuit for each size of calls."""
        self.switch = Switch(options.is_enabled())
        self._waiting: set[Call[Any]] = set()
        self._stragglers: set[asyncio.Future[None]] = set()
        self.loop: Optional[asyncio.AbstractEventLoop] = None
        """The event loop that calls have to be made on; None: any thread may call (`BlockingReranker`)."""
        self._warned_of_loop = False
        connection.on_lost = self._on_lost

    def watch_switch(self) -> None:
        """Starts to follow the live switch, if there is one."""
        if self.options.switch_bucket is not None:
            self.switch.watch(self.connection, self.options.switch_bucket)

    async def close(self) -> None:
        """Ends the watch and the connection."""
        await self.switch.close()
        await self.connection.close()

    # --- begin ---------------------------------------------------------------------------------------------------

    def begin(
        self,
        query: str,
        documents: Iterable[T],
        top_k: Optional[int],
        text: Optional[Callable[[T], str]],
        budget_ms: Optional[float],
        raw_scores: Optional[bool],
        truncate: Optional[bool],
        model: Optional[str],
        min_score: Optional[float] = None,
    ) -> Union[Call[T], Reranked[T]]:
        """A call that is worth asking for, with its requests written; else what it comes to without."""
        began = time.monotonic()
        call = Call(list(documents), top_k, began)
        # Numbers of numpy are numbers; True and False are none.
        if top_k is not None:
            if isinstance(top_k, bool) or not isinstance(top_k, numbers.Integral) or top_k < 0:
                call.top_k = None
                return call.ann(Missing("refused", "invalid_request", "`top_k`: expected a whole number"))
            call.top_k = int(top_k)
        if min_score is not None:
            try:
                call.min_score = float(min_score)
            except (TypeError, ValueError):
                return call.ann(Missing("refused", "invalid_request", "`min_score`: expected a number"))
        if self.loop is not None and asyncio.get_running_loop() is not self.loop:
            # Its futures belong to the other loop: a call from here would hang, and disturb those that are made there.
            if not self._warned_of_loop:
                self._warned_of_loop = True
                log.warning("a Reranker is %s; such calls keep the ANN order", OTHER_LOOP)
            return call.ann(Missing("refused", "invalid_request", OTHER_LOOP))
        if not self.switch.enabled:
            return call.ann(Missing("switched_off"))
        budget_ms = self.options.budget_ms if budget_ms is None else budget_ms
        if not (isinstance(budget_ms, numbers.Real) and budget_ms > 0):
            return call.ann(Missing("timed_out", None, "there was no budget"))
        budget_ms = float(budget_ms)
        call.deadline = began + min(budget_ms, BUDGET_MS_MAX) / 1e3
        call.client = self.connection.client
        if call.client is None:
            return call.ann(Missing("disconnected"))
        if not call.items or call.top_k == 0:
            # Nothing to put in order is in order.
            return Reranked([], "model", elapsed_ms=call.elapsed_ms)
        call.counts = budget_ms >= self.options.budget_ms / 2
        try:
            texts = self._texts(call, query, text)
        except Exception as error:  # of the caller's `text`
            texts = Missing("refused", "invalid_request", f"the text of a document raised {type(error).__name__}")
        if isinstance(texts, Missing):
            return call.ann(texts)
        call.breaker = self.breakers[size_class(sum(len(query) + len(one) for one in texts))]
        call.permit = call.breaker.admit()
        if call.permit is None:
            opened_by = call.breaker.opened_by
            return call.ann(
                Missing("circuit_open", None, opened_by and f"calls of this size have failed of late: {opened_by}")
            )
        try:
            fields: dict[str, Any] = {}
            call.raw_scores = self.options.raw_scores if raw_scores is None else raw_scores
            if call.raw_scores:
                fields["raw_scores"] = True
            if not (self.options.truncate if truncate is None else truncate):
                fields["truncate"] = False
            if (model or self.options.model) is not None:
                fields["model"] = model or self.options.model
            missing = self._write(call, query, texts, fields)
        except BaseException:
            self.abandon(call)
            raise
        if missing is None:
            return call
        self.abandon(call)
        return call.ann(missing)

    def _texts(self, call: Call[T], query: str, text: Optional[Callable[[T], str]]) -> Union[list[str], Missing]:
        """The texts of the documents; or says why there are none."""
        if not isinstance(query, str) or not query.strip():
            return Missing("refused", "invalid_request", "`query`: expected a text")
        texts = []
        for item in call.items:
            found = text(item) if text is not None else own_text(item)
            if not isinstance(found, str):
                return Missing("refused", "invalid_request", "a document has no text: give `text`, a function of it")
            texts.append(found)
        return texts

    def _write(self, call: Call[T], query: str, texts: list[str], fields: Mapping[str, Any]) -> Optional[Missing]:
        """Writes the requests; or says why there are none."""
        assert call.client is not None
        bytes_max = call.client.max_payload
        call.parts = split(query, texts, call.top_k, fields, bytes_max, self.options.parts_max)
        if not call.parts:
            return Missing("refused", "too_large", f"larger than a NATS message may be ({bytes_max} bytes)")
        return None

    # --- exchange ------------------------------------------------------------------------------------------------

    async def exchange(self, call: Call[T]) -> None:
        """Asks for every part, side by side, until all is known or the budget is spent."""
        call.tasks = [asyncio.ensure_future(self._ask(call, number)) for number in range(len(call.parts))]
        self._waiting.add(call)
        try:
            await asyncio.wait(call.tasks, timeout=max(0.0, call.left_s))
        finally:
            self._waiting.discard(call)
            for task in call.tasks:
                if not task.done():
                    task.cancel()
                    # nats-py may take a moment to let go; that is not the caller's time.
                    self._stragglers.add(task)
                    task.add_done_callback(self._stragglers.discard)

    def _on_lost(self) -> None:
        """What was asked over a connection that is gone is not answered any more: nobody has to wait for it."""
        for call in self._waiting:
            for number, task in enumerate(call.tasks):
                if not task.done():
                    call.outcomes.setdefault(number, Missing("disconnected"))
                    task.cancel()

    async def _ask(self, call: Call[T], number: int) -> None:
        part = call.parts[number]
        retries = self.options.retries_max
        while True:
            outcome = await self._request(call, part)
            # What an idle worker would refuse as well is not asked again.
            refused = (
                isinstance(outcome, Missing)
                and outcome.kind in ("overloaded", "unavailable")
                and outcome.scope != "request"
            )
            pause_s = random.uniform(0.0, RETRY_PAUSE_MS_MAX) / 1e3
            if not refused or retries == 0 or call.left_s <= pause_s:
                call.outcomes[number] = outcome
                return
            retries -= 1
            await asyncio.sleep(pause_s)

    async def _request(self, call: Call[T], part: Part) -> Union[Scores, Missing]:
        client = call.client
        assert client is not None
        left_s = call.left_s
        if left_s <= 0:
            return Missing("timed_out")
        # A request that waits for the reconnect would leave for an answer that nobody waits for.
        if not client.is_connected:
            return Missing("disconnected")
        if client.pending_data_size + len(part.body) > PENDING_BYTES_MAX:
            return Missing("disconnected", None, "the NATS server does not take what is sent to it")
        try:
            message = await client.request(
                self.options.subject, part.body, timeout=left_s, headers=request_headers(left_s * 1e3)
            )
        except NoRespondersError:
            return Missing("no_responders")
        except NatsTimeout:
            return Missing("timed_out")
        except MaxPayloadError:
            return TOO_LARGE
        except Exception as error:
            return Missing("disconnected", None, type(error).__name__)
        return open_reply(message.headers, message.data, part)

    # --- finish --------------------------------------------------------------------------------------------------

    def finish(self, call: Call[T]) -> Reranked[T]:
        """The items in the order that came of it."""
        # What is known now; a part that is answered from here on is late.
        known = dict(call.outcomes)
        outcomes = [known.get(number) or Missing("timed_out") for number in range(len(call.parts))]
        scores = [outcome for outcome in outcomes if isinstance(outcome, Scores)]
        if call.permit is not None and call.breaker is not None:
            missing = next((outcome for outcome in outcomes if isinstance(outcome, Missing)), None)
            cause = missing and (missing.kind or missing.reason)
            call.breaker.record(call.permit, _failed(call, outcomes), call.elapsed_ms, cause)
        if not scores:
            first = outcomes[0]
            assert isinstance(first, Missing)
            return call.ann(first)
        return _merge(call, outcomes)

    def abandon(self, call: Call[T]) -> None:
        """The caller does not wait any longer: the call says nothing about the fleet."""
        if call.permit is not None and call.breaker is not None:
            call.breaker.record(call.permit, None, call.elapsed_ms)


def own_text(item: object) -> object:
    """A string is its own text; of a mapping it is `text`."""
    return item.get("text") if isinstance(item, Mapping) else item


def _failed(call: Call[T], outcomes: list[Union[Scores, Missing]]) -> Optional[bool]:
    """Whether the fleet let the call down, for at least half of its candidates; None where that is not known."""
    let_down = mine = 0
    budget_ms = (call.deadline - call.began) * 1e3
    is_quick = call.elapsed_ms <= min(budget_ms / 10, QUICK_MS_MAX)
    for part, outcome in zip(call.parts, outcomes):
        if isinstance(outcome, Missing):
            # An idle worker would have refused it as well; or it cost no time, which is all that a circuit can save.
            is_own_doing = outcome.scope == "request" or outcome.reason == "disconnected"
            if is_own_doing or (is_quick and outcome.reason in ("refused", "no_responders")):
                mine += part.count
            else:
                let_down += part.count
    asked = sum(part.count for part in call.parts)
    if 2 * let_down >= asked:
        return True if call.counts else None
    return None if 2 * (let_down + mine) >= asked else False


def _merge(call: Call[T], outcomes: list[Union[Scores, Missing]]) -> Reranked[T]:
    """Parts in ANN order, so that equal scores of different parts keep it; those of one part come as it ranked them."""
    is_split = call.parts[0].count < len(call.items)
    # Parts hold logits; what makes scores of them has to be the same for all, as has the model.
    wants_activation = is_split and not call.raw_scores

    def family_of(scores: Scores) -> Optional[tuple[str, str]]:
        activation = scores.activation if wants_activation else "identity"
        return None if activation is None else (scores.model, activation)

    scored: dict[tuple[str, str], int] = {}
    for part, outcome in zip(call.parts, outcomes):
        family = family_of(outcome) if isinstance(outcome, Scores) else None
        if family is not None:
            scored[family] = scored.get(family, 0) + part.count
    # Of several families that which has scored most counts; what others have scored has no score.
    chosen = max(scored, key=lambda family: scored[family], default=None)

    ranked: list[tuple[int, float]] = []
    workers: list[str] = []
    missing = dict.fromkeys(range(len(call.items)), TOO_LARGE)
    for part, outcome in zip(call.parts, outcomes):
        if isinstance(outcome, Scores) and (chosen is None or family_of(outcome) != chosen):
            outcome = Missing("bad_reply", None, "it is another model's, or does not name the model's activation")
        for place in range(part.first, part.first + part.count):
            if isinstance(outcome, Scores):
                del missing[place]
            else:
                missing[place] = outcome
        if isinstance(outcome, Scores):
            ranked.extend(outcome.rankings)
            if outcome.worker is not None and outcome.worker not in workers:
                workers.append(outcome.worker)
    unscored = list(missing)
    first = missing[unscored[0]] if unscored else None
    if chosen is None:
        return call.ann(first or Missing("bad_reply"))

    if len(call.parts) > 1:
        ranked.sort(key=lambda ranking: -ranking[1])
    model, activation = chosen
    best = [Ranked(call.items[place], place, activated(activation, score)) for place, score in ranked[: call.top_k]]
    least = call.min_score
    # Worked out here, so that workers of before `min_score` do.
    items = [item for item in best if least is None or item.score is None or item.score >= least]
    below = len(best) - len(items)
    items += [Ranked(call.items[place], place, None) for place in unscored]
    return Reranked(
        items if call.top_k is None else items[: call.top_k - below],
        "model",
        detail=first.detail if first else None,
        partial=Partial(len(unscored), first.reason, first.kind) if first else None,
        model=model,
        workers=tuple(workers),
        below_min_score=below,
        elapsed_ms=call.elapsed_ms,
    )
