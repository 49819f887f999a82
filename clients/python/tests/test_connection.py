"""What becomes of calls while NATS is away, hangs or comes back, and the live switch."""

from __future__ import annotations

import nats
import pytest
from conftest import BUDGET_MS, NatsServer, Responder, options, until

from nats_rerank import BlockingReranker, BreakerOptions, ConnectError, Reranker

DOCUMENTS = ["b 2", "a 1", "c 3"]


async def reason(reranker: Reranker, budget_ms: float = BUDGET_MS) -> str:
    """`model`, or why not; the documents come back in any case."""
    answer = await reranker.rerank("q", DOCUMENTS, budget_ms=budget_ms)
    assert len(answer.items) == len(DOCUMENTS)
    return answer.reason or answer.order


async def test_no_server_is_an_error_of_connecting_alone() -> None:
    with pytest.raises(ConnectError) as caught:
        await Reranker.connect("nats://someone:secret@127.0.0.1:1", options())
    assert "secret" not in str(caught.value)
    with pytest.raises(ConnectError):
        await Reranker.connect("http://127.0.0.1", options(), lazy=True)
    with pytest.raises(ConnectError, match="colour"):
        await Reranker.connect("nats://127.0.0.1:1", options(), lazy=True, colour="blue")
    with pytest.raises(ConnectError):
        BlockingReranker.connect("nats://127.0.0.1:1", options())


async def test_lazy_connects_in_the_background(own_server: NatsServer) -> None:
    own_server.stop()
    async with await Reranker.connect(own_server.url, options(), lazy=True) as reranker:
        assert await reason(reranker) == "disconnected"
        own_server.start()
        client = await nats.connect(own_server.url)
        await Responder(client).start()

        async def reranked() -> bool:
            return await reason(reranker) == "model"

        await until(reranked)
        await client.close()


async def test_a_lost_connection_is_taken_up_again(own_server: NatsServer) -> None:
    async with await Reranker.connect(own_server.url, options()) as reranker:
        assert await reason(reranker) == "no_responders"
        own_server.stop()

        async def disconnected() -> bool:
            return await reason(reranker) == "disconnected"

        await until(disconnected)
        own_server.start()
        client = await nats.connect(own_server.url)
        await Responder(client).start()

        async def reranked() -> bool:
            return await reason(reranker) == "model"

        await until(reranked)
        await client.close()


async def test_a_connection_that_the_server_ended_is_made_anew(shared_server: NatsServer, responder: Responder) -> None:
    async with await Reranker.connect(shared_server.url, options()) as reranker:
        ended = reranker._core.connection.client
        assert ended is not None
        # More than this server takes: nats-py closes for good when it is told so.
        ended._max_payload = 1 << 30
        await ended.publish("somewhere", b"x" * 100_000)

        async def anew() -> bool:
            return ended.is_closed and await reason(reranker) == "model"

        await until(anew)


async def test_a_server_that_hangs_costs_the_budget_and_then_nothing(own_server: NatsServer) -> None:
    breaker = BreakerOptions(calls=3, calls_min=3, failure_percent=100, pause_ms_min=60_000, pause_ms_max=60_000)
    async with await Reranker.connect(own_server.url, options(budget_ms=50, breaker=breaker)) as reranker:
        assert await reason(reranker) == "no_responders"
        own_server.pause()
        try:
            for _ in range(3):
                assert await reason(reranker, 50) == "timed_out"
            # Far more than the socket takes.
            big = ["x" * 500_000 for _ in range(10)]
            assert (await reranker.rerank("q", big, budget_ms=50)).reason == "timed_out"
            assert await reason(reranker, 50) == "circuit_open"
        finally:
            own_server.resume()


async def test_what_a_hanging_server_does_not_take_is_bounded(own_server: NatsServer) -> None:
    async with await Reranker.connect(own_server.url, options()) as reranker:
        own_server.pause()
        try:
            big = ["x" * 500_000 for _ in range(14)]

            async def full() -> bool:
                return (await reranker.rerank("q", big, budget_ms=200)).reason == "disconnected"

            await until(full)
        finally:
            own_server.resume()

        async def recovered() -> bool:
            return await reason(reranker) == "no_responders"

        await until(recovered)


async def test_the_live_switch(shared_server: NatsServer, responder: Responder) -> None:
    client = responder.client
    bucket = await client.jetstream().create_key_value(bucket="switch-1")
    await bucket.put("enabled", b"false")
    async with await Reranker.connect(shared_server.url, options(switch_bucket="switch-1")) as reranker:

        async def comes_to(expected: str) -> None:
            async def there() -> bool:
                return await reason(reranker) == expected

            await until(there)

        await comes_to("switched_off")
        await bucket.put("enabled", b"true")
        await comes_to("model")
        await bucket.put("enabled", b"false")
        await comes_to("switched_off")
        await bucket.put("enabled", b"perhaps")
        await bucket.delete("enabled")
        await comes_to("model")
        await bucket.put("enabled", b"perhaps")
        await comes_to("switched_off")
        await bucket.put("enabled", b"true")
        await comes_to("model")
        # A running reader goes by what it saw last, a new one by the history: with one revision there is none.
        await bucket.put("enabled", b"perhaps")
        async with await Reranker.connect(shared_server.url, options(switch_bucket="switch-1")) as new:

            async def off() -> bool:
                return await reason(new) == "switched_off"

            await until(off)
            assert await reason(reranker) == "model"


async def test_a_new_reader_of_garbage_goes_by_the_history(shared_server: NatsServer, responder: Responder) -> None:
    bucket = await responder.client.jetstream().create_key_value(bucket="switch-3", history=5)
    for values, expected in [([b"true", b"x", b""], "model"), ([b"false", b"x", b"1"], "switched_off")]:
        for value in values:
            await bucket.put("enabled", value)
        # The opposite is configured, so that the bucket's word shows.
        settings = options(switch_bucket="switch-3", enabled=expected != "model")
        async with await Reranker.connect(shared_server.url, settings) as reranker:

            async def there(reranker: Reranker = reranker, expected: str = expected) -> bool:
                return await reason(reranker) == expected

            await until(there)


async def test_switched_off_by_configuration_until_the_bucket_speaks(own_server: NatsServer) -> None:
    client = await nats.connect(own_server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.2)
    responder = Responder(client)
    await responder.start()
    settings = options(enabled=False, switch_bucket="switch-2")
    async with await Reranker.connect(own_server.url, settings) as reranker:
        assert await reason(reranker) == "switched_off"
        bucket = await client.jetstream().create_key_value(bucket="switch-2")
        await bucket.put("enabled", b"true")

        async def on() -> bool:
            return await reason(reranker) == "model"

        async def off() -> bool:
            return await reason(reranker) == "switched_off"

        async def switched_on() -> bool:
            try:
                await bucket.put("enabled", b"true")
            except Exception:
                return False
            return True

        await until(on)
        assert len(responder.requests) == 1

        # What the bucket said last holds while JetStream is away; the switch works again behind a lost connection.
        await bucket.put("enabled", b"false")
        await until(off)
        own_server.stop()
        own_server.start()
        assert await off()
        await until(switched_on)
        await until(on)
    await client.close()
