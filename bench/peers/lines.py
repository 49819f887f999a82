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
            took_ms, more = [], []
            for _ in range(order["count"]):
                request = requests[turn % len(requests)]
                turn += 1
                began = time.perf_counter()
                scores = peer.score(request)
                took_ms.append((time.perf_counter() - began) * 1e3)
                more.append(scores)
            say({"ms": took_ms, **peer.tell(more)})
        else:
            raise ValueError(f"no such order: {line}")


class Peer:
    """What most peers have in common."""

    def load(self, requests: list[dict]) -> dict:
        """Get ready for these requests; what is worth telling of that."""
        return {}

    def tell(self, outcomes: list) -> dict:
        """What a round says beside its times."""
        return {}


def pairs(request: dict) -> list[tuple[str, str]]:
    return [(request["query"], document) for document in request["documents"]]
