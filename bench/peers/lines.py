"""How a peer takes orders: a line of JSON on standard input each, its outcome a line on standard output.

The same orders as `nats-rerank rounds` (src/cli/rounds): `load` requests, compute a `round` of them. A peer is an object with
`load(requests) -> dict` and `score(request) -> list of scores`; what is timed is `score`, from texts to scores.
"""

from __future__ import annotations

import json
import sys
import time


def obey(peer, about: dict) -> None:
    """Take orders until the input ends."""
    # Libraries print as they like; the answers have a way of their own.
    answers, sys.stdout = sys.stdout, sys.stderr

    def say(value: dict) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    say({"ready": True, "about": about})
    requests, turn = [], 0
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "load":
            with open(order["path"], encoding="utf-8") as file:
                requests, turn = [json.loads(one) for one in file], 0
            say({"requests": len(requests), **peer.load(requests)})
        elif order["do"] == "round":
            took_ms, more, callers = [], [], order.get("callers", 1)
            round_began = time.perf_counter()
            for first in range(0, order["count"], callers):
                chosen = [requests[(turn + place) % len(requests)] for place in range(min(callers, order["count"] - first))]
                turn += len(chosen)
                began = time.perf_counter()
                scores = peer.score(chosen[0]) if callers == 1 else peer.score_many(chosen)
                # What is computed together is there together.
                took_ms += [(time.perf_counter() - began) * 1e3] * len(chosen)
                more.append(scores)
            say({"ms": took_ms, "seconds": time.perf_counter() - round_began, **peer.tell(more)})
        else:
            raise ValueError(f"no such order: {line}")


class Peer:
    """What most peers have in common."""

    def load(self, requests: list[dict]) -> dict:
        """Get ready for these requests; what is worth telling of that."""
        return {}

    def score_many(self, requests: list[dict]) -> list:
        """Several requests at once, as well as this system can."""
        return [self.score(request) for request in requests]

    def tell(self, outcomes: list) -> dict:
        """What a round says beside its times."""
        return {}


def pairs(request: dict) -> list[tuple[str, str]]:
    return [(request["query"], document) for document in request["documents"]]
