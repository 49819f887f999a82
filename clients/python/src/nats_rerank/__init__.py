"""A client of the nats-rerank workers that fails open: items come back best first, or as they were, never late.

async with await Reranker.connect("nats://127.0.0.1:4222", Options(budget_ms=200)) as reranker:
    answer = await reranker.rerank("how do cats purr", candidates, 8, text=lambda hit: hit.body)
    print(answer.order, answer.reason, answer.documents)
"""

from ._blocking import BlockingReranker
from ._client import Reranker
from ._connection import ConnectError
from ._options import BreakerOptions, Options
from ._types import Order, Partial, Ranked, Reason, RefusalKind, Reranked

__all__ = [
    "BlockingReranker",
    "BreakerOptions",
    "ConnectError",
    "Options",
    "Order",
    "Partial",
    "Ranked",
    "Reason",
    "RefusalKind",
    "Reranked",
    "Reranker",
]
