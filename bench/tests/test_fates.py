"""The ledger's naming of fates (tools/lib/fates.py): one scripted request for each cause, and the reading of logs."""

import sys
import unittest
from dataclasses import replace
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "lib"))
import fates
from fates import Facts, Request, Trail

UNTIL = 10.0
USUAL = {"send": 0.001, "hand": 0.001, "deliver": 0.001, "work": 0.01, "reply": 0.001, "read": 0.001}
SENT = Request(number=7, due=1.0, deadline=2.0, sent=1.0, server="nats-0")
# As it goes when nothing is wrong.
WHOLE = Trail(taken=1.001, handed=1.002, worker="w", received=1.003, answered=1.013, outcome="scored", reply_taken=1.014, reply_handed=1.015)


def waits(who: str, begin: float, end: float) -> dict[str, list[tuple[float, float]]]:
    """`who` waits for a processor from `begin` to `end`, sampled each 0.1 s."""
    times = [step / 10 for step in range(101)]
    return {who: [(time, min(max(time - begin, 0.0), end - begin)) for time in times]}


def cause(request: Request, trail: Trail, **facts) -> str:
    return fates.classify(request, trail, Facts(usual=USUAL, **facts), UNTIL)


def late(at: float) -> Request:
    return replace(SENT, replied=at, kind="scored")


class NothingCame(unittest.TestCase):
    def test_held_by_a_killed_worker(self):
        held = Trail(taken=1.0, handed=1.0, worker="w", received=1.0)
        self.assertEqual(cause(SENT, held, killed={"w": 1.5}), "held by a killed worker")
        # Its server has not noticed yet.
        self.assertEqual(cause(SENT, replace(held, received=None), killed={"w": 0.99}), "held by a killed worker")

    def test_another_workers_death_explains_nothing(self):
        held = Trail(taken=1.0, handed=1.0, worker="w", received=1.0)
        self.assertEqual(cause(SENT, held, killed={"v": 1.5}), fates.UNEXPLAINED)
        self.assertEqual(cause(SENT, held, killed={"w": UNTIL + 1}), fates.UNEXPLAINED)

    def test_a_worker_that_keeps_a_request_is_unexplained(self):
        self.assertEqual(cause(SENT, Trail(taken=1.0, handed=1.0, worker="w", received=1.0)), fates.UNEXPLAINED)
        self.assertEqual(cause(SENT, Trail(taken=1.0, handed=1.0, worker="w")), fates.UNEXPLAINED)
        self.assertEqual(cause(SENT, Trail(taken=1.0)), fates.UNEXPLAINED)
        self.assertEqual(cause(SENT, Trail()), fates.UNEXPLAINED)

    def test_connection_lost(self):
        unread = Trail(taken=1.0, handed=1.0, worker="w")
        self.assertEqual(cause(SENT, unread, losses={"w": [(1.001, 1.004)]}), "worker's connection lost")
        # The server has not noticed yet, and goes on sending.
        self.assertEqual(cause(SENT, unread, losses={"w": [(0.7, 1.01)]}), "worker's connection lost")
        self.assertEqual(cause(SENT, unread, losses={"w": [(5.0, 5.1)]}), fates.UNEXPLAINED)
        sent = Trail(taken=1.0, handed=1.0, worker="w", received=1.0, answered=1.6, outcome="scored")
        self.assertEqual(cause(SENT, sent, losses={"w": [(1.601, 1.7)]}), "worker's connection lost")

    def test_dropped_by_its_worker(self):
        dropped = Trail(taken=1.0, handed=1.0, worker="w", received=1.0, answered=1.9, outcome="dropped")
        self.assertEqual(cause(SENT, dropped), "answer dropped by its worker")
        # Too late in any case.
        self.assertEqual(cause(SENT, replace(dropped, answered=2.1), waits=waits("w", 1.0, 2.0)), "worker without CPU")

    def test_lost_on_a_route(self):
        self.assertEqual(cause(SENT, Trail(taken=1.0, routed=True)), "lost on a route")

    def test_lame_duck(self):
        facts = {"caller_losses": [1.5], "lame_ducks": [(0.0, 9.0)]}
        self.assertEqual(cause(replace(SENT, sent=None), Trail(), **facts), "caller's server in lame duck")
        self.assertEqual(cause(SENT, replace(WHOLE, reply_handed=None), **facts), "caller's server in lame duck")
        # A connection that breaks without a reason is no explanation.
        self.assertEqual(cause(SENT, Trail(), caller_losses=[1.5]), fates.UNEXPLAINED)


class CameLate(unittest.TestCase):
    def test_in_time_has_no_cause(self):
        self.assertEqual(cause(late(1.016), WHOLE), "")

    def test_worker_without_a_processor(self):
        slow = replace(WHOLE, answered=2.5, reply_taken=2.501, reply_handed=2.502)
        self.assertEqual(cause(late(2.503), slow, waits=waits("w", 1.2, 2.4)), "worker without CPU")

    def test_a_short_wait_does_not_explain_a_long_delay(self):
        slow = replace(WHOLE, answered=2.5, reply_taken=2.501, reply_handed=2.502)
        self.assertEqual(cause(late(2.503), slow, waits=waits("w", 1.2, 1.4)), "expired in the worker's queue")

    def test_worker_paused(self):
        slow = replace(WHOLE, received=2.5, answered=2.51, reply_taken=2.511, reply_handed=2.512)
        self.assertEqual(cause(late(2.513), slow, paused={"w": [(1.0, 2.4)]}), "worker paused")
        self.assertEqual(cause(late(2.513), slow), fates.UNEXPLAINED)

    def test_caller_and_server_without_a_processor(self):
        self.assertEqual(cause(late(2.5), WHOLE, waits=waits("caller", 1.1, 2.4)), "caller without CPU")
        held_up = replace(WHOLE, taken=2.3, handed=2.301, received=2.302, answered=2.312, reply_taken=2.313, reply_handed=2.314)
        self.assertEqual(cause(late(2.315), held_up, waits=waits("nats-0", 1.1, 2.2)), "server without CPU")
        self.assertEqual(cause(late(2.315), held_up), fates.UNEXPLAINED)


    def test_the_servers_own_answer_that_was_read_late(self):
        nobody = replace(SENT, replied=2.5, kind="no responders")
        self.assertEqual(cause(nobody, Trail(taken=1.001), waits=waits("caller", 1.1, 2.4)), "caller without CPU")


class Usual(unittest.TestCase):
    def test_medians_of_what_was_in_time(self):
        found = fates.usual([late(1.016), replace(late(9.0), number=8)], {7: WHOLE, 8: replace(WHOLE, answered=8.9)})
        self.assertAlmostEqual(found["work"], 0.010)
        self.assertAlmostEqual(found["read"], 0.002)


class Logs(unittest.TestCase):
    def test_a_servers_trace(self):
        head = "[1] 2026/01/02 03:04:05."
        caller, worker = '127.0.0.1:1 - cid:5 - "caller"', '127.0.0.1:2 - cid:4 - "v0.51.0:rust:worker-0-1"'
        lines = [
            f"{head}000100 [TRC] {caller} - <<- [HPUB s _INBOX.ledger.1x2.7 10 20]",
            f"{head}000150 [TRC] 127.0.0.1:3 - rid:9 - ->> [HMSG s _INBOX.ledger.1x2.8 10 20]",
            f"{head}000200 [TRC] {worker} - ->> [HMSG s 1 _INBOX.ledger.1x2.7 10 20]",
            f"{head}000300 [TRC] {worker} - <<- [HPUB _INBOX.ledger.1x2.7 10 20]",
            f"{head}000400 [TRC] {caller} - ->> [HMSG _INBOX.ledger.1x2.7 1 10 20]",
            f"{head}000500 [TRC] {worker} - <<- [PING]",
        ]
        trails: dict[int, Trail] = {}
        fates.read_server(lines, "s", trails)
        trail, begin = trails[7], fates.server_time("2026/01/02 03:04:05.000000")
        times = [round((at - begin) * 1e6) for at in (trail.taken, trail.handed, trail.reply_taken, trail.reply_handed)]
        self.assertEqual((times, trail.worker, trail.routed), ([100, 200, 300, 400], "worker-0-1", False))
        self.assertTrue(trails[8].routed and trails[8].handed is None)

    def test_a_workers_log(self):
        number = f"{7:032x}"
        lines = [
            f'{{"timestamp":"2026-01-02T03:04:05.000100Z","message":"received","trace_id":"{number}"}}',
            f'{{"timestamp":"2026-01-02T03:04:05.000300Z","message":"answered","trace_id":"{number}","span":{{"outcome":"refused","kind":"overloaded"}}}}',
            '{"timestamp":"2026-01-02T03:04:06.000000Z","message":"the connection to NATS is lost: reconnecting"}',
            '{"timestamp":"2026-01-02T03:04:06.002000Z","message":"connected to NATS"}',
            '{"timestamp":"2026-01-02T03:04:0',
        ]
        trails, losses = {}, []
        fates.read_worker("w", lines, trails, losses)
        trail = trails[7]
        self.assertEqual((trail.worker, trail.outcome, trail.refusal), ("w", "refused", "overloaded"))
        self.assertEqual([round(back - lost, 3) for lost, back in losses], [0.002])
        self.assertAlmostEqual(trail.answered - trail.received, 0.0002, places=5)

    def test_every_cause_is_described(self):
        source = Path(fates.__file__).read_text("utf-8").split("def classify")[1]
        for name in fates.CAUSES:
            self.assertTrue(name == fates.UNEXPLAINED or f'"{name}"' in source, name)


if __name__ == "__main__":
    unittest.main()
