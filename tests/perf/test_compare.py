"""What perf/compare makes of runs, without servers: python3 -m unittest discover tests/perf"""

import math
import os
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../perf"))

import axes
from lib import etcd, plot_latency, plot_ratios, process, report
from lib.axis import Axis, Figure, cpu, p50, p99, rate
from lib.child import Child, Deadline, Failure
from lib.contest import Side
from lib.musts import Most, Near, Part, Times
from lib.result import Result
from lib.scale import Scale

SIDES = [Side("theirs", "etcd", "etcd", "kevel-bench"), Side("ours", "kevel", "kevel", "kevel-bench")]
FIGURES = (rate("put", Times(2)), p50("put"), p99("put"), cpu("put", Part(4)), Figure("late", "delay, s", 1, Most(5)))


def result(theirs, ours):
    """An axis with these rounds: rate, p50, p99, cpu, late; None for one that failed."""
    made = Result(Axis("put/some", "puts", FIGURES, None), SIDES)
    keys = [figure.key for figure in FIGURES]
    for pair in zip(theirs, ours):
        for side, values in zip(SIDES, pair):
            made.add(side, dict(zip(keys, values))) if values else made.fail(side, "it fell over")
    return made


class Results(unittest.TestCase):
    def test_ratios_are_of_medians_and_spread_over_rounds(self):
        made = result([(100, 2, 8, 40, 1)] * 3, [(300, 1, 2, 10, 1), (100, 1, 2, 20, 1), (200, 1, 2, 5, 1)])
        ratio = made.ratio(FIGURES[0])
        self.assertEqual((ratio.middle, ratio.low, ratio.high), (2, 1, 3))
        self.assertTrue(made.is_met(FIGURES[0]) and made.is_met(FIGURES[3]))
        self.assertIn("| 40.0 | 10.0 | 1/4.0 | 1/8.0 .. 1/2.0 | at most 1/4 | yes |", report.tables([made]))

    def test_a_failed_round_is_named_and_the_others_count(self):
        made = result([(100, 2, 8, 40, 1), None], [(150, 1, 2, 10, 6), (150, 1, 2, 10, 6)])
        self.assertEqual(made.ratio(FIGURES[0]).middle, 1.5)
        table = report.tables([made])
        self.assertIn("| 100 | 150 | 1.5x |  | at least 2x | **no** |", table)
        self.assertIn("Failed: put/some, theirs, round 2: it fell over", table)

    def test_a_side_without_runs_and_a_wait_without_end_are_told(self):
        made = result([None], [(150, 1, 2, 10, math.inf)])
        table = report.tables([made])
        self.assertIn("| none | 150 |  |  | at least 2x |  |", table)
        self.assertIn("| none | never |  |  | at most 5 | **no** |", table)

    def test_plots_show_what_was_measured(self):
        made = result([(100, 2, 8, 40, 1)], [(300, 1, 2, 10, 1)])
        for plot in (plot_ratios, plot_latency):
            self.assertIn("put/some", plot.plot([made], ["theirs", "ours"]))
            self.assertIsNone(plot.plot([result([None], [None])], ["theirs", "ours"]))
        self.assertEqual(Scale(0.5, 12, 0, 100).ticks(), [0.5, 1, 2, 5, 10])

    def test_near_goes_both_ways(self):
        self.assertTrue(Near(1.1).is_met(100, 109) and Near(1.1).is_met(109, 100))
        self.assertFalse(Near(1.1).is_met(100, 111) or Near(1.1).is_met(111, 100))


class Axes(unittest.TestCase):
    def test_names_and_groups_select(self):
        self.assertEqual([axis.name for axis in axes.select(["put/1-client"])], ["put/1-client"])
        self.assertEqual({axis.group for axis in axes.select(["list", "txn"])}, {"list", "txn"})
        self.assertNotIn("etcd-tool", {axis.group for axis in axes.select([])})
        self.assertRaises(ValueError, axes.select, ["put/2-client"])
        self.assertEqual(len({axis.name for axis in axes.ALL}), len(axes.ALL))


class World(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def test_a_child_that_hangs_is_killed(self):
        words = os.path.join(self.folder.name, "words")
        with Child(["sh", "-c", "echo well; exec sleep 60"], words) as child:
            self.assertRaisesRegex(Failure, "sh hung and was killed.*well", child.wait, Deadline(0.3))
            self.assertIsNotNone(child.process.poll())

    def test_cpu_time_of_a_process_grows_while_it_works(self):
        before, end = process.cpu(os.getpid()), time.process_time() + 0.1
        while time.process_time() < end:
            pass
        self.assertGreaterEqual(process.cpu(os.getpid()), before + 0.08)

    def test_messages_read_as_they_were_written(self):
        message = etcd.number(3, 300) + etcd.text(1, etcd.number(3, 1 << 40) + etcd.text(2, b"x"))
        self.assertEqual(etcd.field(message, 3), 300)
        self.assertEqual(etcd.field(etcd.field(message, 1), 3), 1 << 40)
        self.assertEqual((etcd.field(etcd.field(message, 1), 2), etcd.field(message, 9)), (b"x", 0))


if __name__ == "__main__":
    unittest.main()
