"""The suite's own arithmetic and texts. Standard library only: `python3 -m unittest discover -s bench/tests`."""

import random
import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "suite"))
import figures
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


if __name__ == "__main__":
    unittest.main()
