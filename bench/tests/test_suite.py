"""The suite's own arithmetic and texts. Standard library only: `python3 -m unittest discover -s bench/tests`."""

import random
import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
for folder in ("bench/suite", "tools/lib"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / folder))
import figures
import page
import quality
import targets
import targets_gpu
import workload

VOCAB = Path(__file__).resolve().parents[2] / ".checkpoints" / "minilm-l6-seeded" / "vocab.txt"


class Figures(unittest.TestCase):
    def test_quantiles_are_between_the_nearest_values(self):
        self.assertEqual(figures.median([3, 1, 2]), 2)
        self.assertEqual(figures.median([4, 1, 2, 3]), 2.5)
        self.assertEqual(figures.quantile([0, 10], 0.25), 2.5)
        self.assertEqual(figures.quantile([7], 0.9), 7)
        with self.assertRaises(ValueError):
            figures.median([])

    def test_a_percentile_is_a_value_that_was_measured(self):
        hundred = list(range(1, 101))
        self.assertEqual([figures.percentile(hundred, share) for share in (0.5, 0.95, 0.99, 1.0)], [50, 95, 99, 100])
        self.assertEqual(figures.percentile([5.0], 0.99), 5.0)
        self.assertEqual(figures.percentile([1, 2, 3], 0.5), 2)

    def test_a_ratio_is_taken_round_by_round(self):
        # The machine was three times slower in the second round: the ratio does not notice.
        found = figures.ratio([[10, 10], [30, 30], [10, 10]], [[2, 2], [6, 6], [2, 2]])
        self.assertEqual((found["ratio"], found["q1"], found["q3"], found["rounds"]), (5, 5, 5, 3))

    def test_kendalls_tau(self):
        self.assertEqual(figures.kendall_tau([1, 2, 3, 4], [10, 20, 30, 40]), 1)
        self.assertEqual(figures.kendall_tau([1, 2, 3, 4], [4, 3, 2, 1]), -1)
        # One of six pairs changed places.
        self.assertAlmostEqual(figures.kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]), 4 / 6)
        # scipy.stats.kendalltau([1, 2, 2, 3], [1, 2, 3, 4])
        self.assertAlmostEqual(figures.kendall_tau([1, 2, 2, 3], [1, 2, 3, 4]), 0.9128709291752769)
        # scipy.stats.kendalltau([1, 1, 2, 3, 5], [1, 4, 2, 2, 3])
        self.assertAlmostEqual(figures.kendall_tau([1, 1, 2, 3, 5], [1, 4, 2, 2, 3]), 0.2222222222222222)
        self.assertEqual(figures.kendall_tau([1, 1], [1, 1]), 1)
        self.assertEqual(figures.kendall_tau([1, 1], [1, 2]), 0)

    def test_the_best_of_equals_is_the_first(self):
        self.assertEqual(figures.best([1, 3, 3, 2]), 1)

    def test_a_line_through_points(self):
        start, rise = figures.line([(1, 3), (2, 5), (4, 9)])
        self.assertAlmostEqual(start, 1)
        self.assertAlmostEqual(rise, 2)
        with self.assertRaises(ValueError):
            figures.line([(1, 2), (1, 3)])


def system(key, kind, precision, rss=100.0):
    return {"key": key, "label": key, "kind": kind, "precision": precision, "about": {}, "start_s": 0.0, "rss_loaded_mb": rss, "rss_saturated_mb": rss}


def times(*rounds):
    return figures.spread([ms for one in rounds for ms in one]) | {"rounds_ms": [list(one) for one in rounds], "told": {}}


def made_up_report():
    """MiniLM-L6 alone, two rounds, the second on a machine that is twice as slow."""
    stages = {"queue": 0.1, "tokenize": 0.6, "infer": 9.3, "worker_rest": 0.1, "nats_and_caller": 0.2}
    ceiling = times([4, 4], [8, 8]) | {"reduced": times([3, 3], [6, 6]), "told": {"gflop": 50.0, "gflop_reduced": 40.0}}
    measured = {
        "worker-bf16": times([10, 10], [20, 20]) | {"stages_ms": stages, "tokens_seen": 2376},
        "worker-fp32": times([30, 30], [60, 60]) | {"stages_ms": stages, "tokens_seen": 2376},
        "engine-bf16": times([8, 8], [16, 16]),
        "cross-encoder-fp32": times([110, 110], [220, 220]),
        "onnx-fp32": times([54, 54], [108, 108]),
        "onnx-int8": times([45, 45], [90, 90]),
        "ceiling-bf16": ceiling,
    }  # fmt: skip
    systems = [
        system("worker-bf16", "worker", "bf16", 300), system("worker-fp32", "worker", "fp32"), system("engine-bf16", "engine", "bf16"),
        system("cross-encoder-fp32", "peer", "fp32"), system("onnx-fp32", "peer", "fp32"), system("onnx-int8", "peer", "int8"), system("ceiling-bf16", "ceiling", "bf16"),
    ]  # fmt: skip
    return {
        "time": "2026-01-01T00:00:00+00:00", "revision": "abc", "quick": False, "minutes": 1.0, "threads": 2, "versions": {"nats-rerank": "0"},
        "machine": {"cpu": "a CPU", "cores": 2, "memory_gib": 4, "flags": [], "load_before": 0.1}, "environment": {"ours": {}, "peers": {}},
        "shapes": [{"shape": "minilm-l6", "mixes": {"mixed": {"tokens": 2376, "systems": measured}}, "systems": systems}],
        "quality": [], "left_out": [{"shape": "minilm-l6", "label": "a peer", "why": "it did not start\nand more"}],
    }  # fmt: skip


class Goals(unittest.TestCase):
    def test_each_is_computed_from_the_run_and_marked(self):
        rows = {one["what"]: one for one in targets.rows(made_up_report())}
        got = {what: (one["got"].split(" ")[0], one["reached"]) for what, one in rows.items()}
        self.assertEqual(
            got,
            {
                "p50 over NATS, one caller, against sentence-transformers fp32": ("11.00", True),
                "against the best configuration of any peer": ("4.50", True),
                "engine alone, share of the measured bf16 matrix ceiling": ("50.0%", False),
                # By its stages 1.0 of 10.3 ms, against the engine alone a fifth: the worse counts.
                "everything but the forward pass, share of the request": ("9.7%", False),
                "fp32 against the best fp32 peer": ("1.80", False),
                "memory of the worker at saturation, bf16": ("300", False),
            },
        )

    def test_what_was_not_measured_is_said_so(self):
        report = made_up_report()
        measured = report["shapes"][0]["mixes"]["mixed"]["systems"]
        for key in [key for key in measured if not key.startswith("worker")]:
            del measured[key]
        self.assertEqual([one["reached"] for one in targets.rows(report)], [None, None, None, None, None, False])

    def test_rankings_count_for_bf16_alone(self):
        report = made_up_report() | {"shapes": []}
        one = {"model": "m", "about": "", "requests": 1000, "precision": "bf16", "same_top_share": 0.995, "tau_mean": 0.985}
        report["quality"] = [one, one | {"precision": "int8"}]
        self.assertEqual([one["reached"] for one in targets.rows(report)], [True, False])


class Page(unittest.TestCase):
    def test_it_holds_every_system_and_what_was_left_out(self):
        text = page.page(made_up_report(), ["cpu-latency.svg"])
        for part in ("Do not edit it", "(cpu-latency.svg)", "| **worker-bf16** | 15.0 |", "| onnx-int8 | 67.5 |", "- minilm-l6: a peer: it did not start\n", "| bf16 | reduced | 40.0 |"):
            self.assertIn(part, text)
        self.assertNotIn("Provisional", text)

    def test_it_says_why_it_is_provisional(self):
        report = made_up_report() | {"quick": True, "revision": "abc-dirty"}
        self.assertEqual(len(page.provisional(report)), 2)
        self.assertIn("**Provisional.**", page.page(report, []))


class Rankings(unittest.TestCase):
    def test_two_sets_of_scores_compared(self):
        found = quality.compare([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]], [[3.5, 2.0, 1.0], [1.0, 3.0, 2.0]])
        self.assertEqual((found["requests"], found["same_top_share"]), (2, 0.5))
        self.assertAlmostEqual(found["tau_worst"], 1 / 3)
        self.assertAlmostEqual(found["tau_mean"], 2 / 3)
        self.assertAlmostEqual(found["logit_error_max"], 1.0)


class Workload(unittest.TestCase):
    def test_lengths_are_those_that_are_documented(self):
        found = {mix: (workload.tokens(mix), max(workload.lengths(mix)) + 9) for mix in workload.MIXES}
        self.assertEqual(found, {"mixed": (2376, 179), "short": (756, 49), "long": (6216, 359), "one-long": (1176, 409), "passages": (1416, 89), "equal": (2376, 99)})

    def test_texts_have_the_lengths_of_their_mix(self):
        self.assertTrue(VOCAB.is_file(), "the test checkpoint is missing: run `make setup`")
        known = workload.Vocabulary(VOCAB)
        for mix in workload.MIXES:
            for request in workload.requests(VOCAB, 3, mix):
                self.assertEqual(sorted(known.count(text) for text in request["documents"]), workload.lengths(mix))
                self.assertEqual(known.count(request["query"]), workload.QUERY_TOKENS)

    def test_a_seed_gives_the_same_text(self):
        self.assertEqual(workload.requests(VOCAB, 2), workload.requests(VOCAB, 2))
        first, second = workload.requests(VOCAB, 2)
        self.assertFalse(set(first["documents"]) & set(second["documents"]))

    def test_words_are_cut_as_wordpiece_does(self):
        known = workload.Vocabulary(VOCAB)
        self.assertEqual([known.pieces(word) for word in ("the", "unaffable", "embeddings")], [1, 3, 4])

    def test_a_text_reads_like_sentences(self):
        known = workload.Vocabulary(VOCAB)
        text = workload.write_text(known, random.Random(1), 60, known.words[300:316], 0.3)
        self.assertTrue(text[0].isupper() and text.endswith("."))
        self.assertEqual(known.count(text), 60)


class GoalsOnAGpu(unittest.TestCase):
    def report(self) -> dict:
        told = {"gflop": 1000.0}
        one = {"p50_ms": 2.0, "p99_ms": 9.0}
        large = {
            "shape": "bge-v2-m3", "mixes": {"mixed": {"systems": {"ceiling-fp16": {"told": told}, "worker-fp16": one}}},
            "saturation": {"worker-fp16": {"requests_per_s": 300.0}, "engine-fp16": {"requests_per_s": 400.0}, "cross-encoder-bf16": {"requests_per_s": 100.0}, "cross-encoder-fp16": {"requests_per_s": 90.0}},
        }  # fmt: skip
        small = {"shape": "minilm-l6", "mixes": {"mixed": {"systems": {"worker-fp16": one}}}, "saturation": {"worker-fp16": {"requests_per_s": 700.0}}}
        products = [{"kind": "float16", "tflops": 800.0}, {"kind": "float16", "tflops": 500.0}, {"kind": "float32", "tflops": 5000.0}]
        return {"shapes": [large, small], "ceiling": {"products": products}}

    def test_each_is_computed_from_the_run_and_marked(self):
        found = {(row["shape"], row["goal"]): row for row in targets_gpu.rows(self.report())}
        self.assertEqual(found["bge-v2-m3", "≥ 3 ×"]["reached"], True)
        self.assertIn("3.00 ×", found["bge-v2-m3", "≥ 3 ×"]["got"])
        # 400 requests of 1,000 GFLOP are 400 of 800 TFLOP/s.
        self.assertEqual(found["bge-v2-m3", "≥ 60%"]["reached"], False)
        self.assertIn("50.0%", found["bge-v2-m3", "≥ 60%"]["got"])
        self.assertEqual(found["minilm-l6", "< 4 and < 8 ms"]["reached"], False)
        self.assertEqual(found["minilm-l6", "≥ 600"]["reached"], True)

    def test_what_was_not_measured_is_said_so(self):
        found = {(row["shape"], row["goal"]): row for row in targets_gpu.rows(self.report())}
        self.assertIsNone(found["minilm-l6", "≥ 8 ×"]["reached"])
        report = self.report() | {"ceiling": {}}
        self.assertIn(None, [row["reached"] for row in targets_gpu.rows(report) if row["shape"] == "bge-v2-m3"])


if __name__ == "__main__":
    unittest.main()
