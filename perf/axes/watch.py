"""Watchers: many of the same, many of their own keys, one that sleeps, a crowd that waits."""

from lib import etcd
from lib.axis import Axis, Figure, cpu, p50, p99
from lib.musts import Most, Part, Times

FAILED = (Figure("missing", "events missing", 0), Figure("failed", "puts failed", 0))
FAN_OUT = (p50("event"), p99("event"), Figure("per_cpu", "events per CPU second", 0, Times(5)), *FAILED)
DISTINCT = (p50("event"), p99("event", Part(3)), cpu("event"), *FAILED)
STALLED = (Figure("quiet", "event p99 of the fast ones, nobody stalled, ms", 3), p50("event"), p99("event"),
           Figure("times", "p99 beside the stalled one, times quiet", 2, Most(1.2)),
           Figure("grown", "RssAnon peak above that without it, MiB", 1, Most(32)))
IDLE = (Figure("anon", "RssAnon, MiB", 1, Part(3)),)


def measure_fan_out(run):
    phase = run.load("watch", "--watchers", 1000, "--watch-conns", 10, "--streams", 10, "--rate", 200,
                     "--duration", run.seconds(4, 8), "--allow-errors")
    return event_values(phase) | {"per_cpu": phase.operations_of("event") / phase.cpu}


def measure_distinct(run):
    phase = run.load("watch", "--watchers", 10_000, "--distinct", "--key-space", 10_000, "--watch-conns", 10,
                     "--streams", 10, "--conns", 10, "--rate", 5000, "--warmup", "1s",
                     "--duration", run.seconds(5, 9), "--allow-errors")
    return event_values(phase) | {"cpu": phase.cpu / phase.operations_of("event") * 1e6}


def event_values(phase):
    return {"p50": phase.latency("event", "p50"), "p99": phase.latency("event", "p99"), "missing": phase.missing,
            "failed": phase.failed}


def measure_stalled(run):
    # What the stalled one misses: 10 MB a second, written with and without it.
    backlog = ("put", "--key-prefix", "stalled/", "--key-size", 24, "--key-space", 1000, "--val-size", "32Ki",
               "--rate", 300, "--duration", run.seconds(30, 60))
    fast = ("watch", "--watchers", 1000, "--watch-conns", 10, "--key-prefix", "fast/", "--key-space", 1000,
            "--rate", 100, "--warmup", "2s", "--duration", run.seconds(8, 18))

    def phase():
        with run.start(*backlog):
            return run.load(*fast)

    quiet = phase()
    with etcd.watch_and_stall(run.server.port, b"stalled/", run.deadline.left()):
        beside = phase()
    before, after = (it.latency("event", "p99") for it in (quiet, beside))
    return {"quiet": before, "p99": after, "p50": beside.latency("event", "p50"), "times": after / before,
            "grown": max(0, beside.anon("peak") - quiet.anon("peak"))}


def measure_idle(run):
    watchers = run.pick(20_000, 100_000)
    phase = run.load("watch", "--watchers", watchers, "--distinct", "--key-space", watchers, "--watch-conns", 10,
                     "--streams", 100, "--rate", 1, "--duration", "2s")
    return {"anon": phase.anon("end")}


AXES = (
    Axis("watch/fan-out", "1000 watchers on one prefix, 200 puts a second", FAN_OUT, measure_fan_out),
    Axis("watch/10000-keys", "10 000 watchers on a key each, 5000 puts a second, from planned put to event", DISTINCT,
         measure_distinct),
    Axis("watch/stalled", "a watcher that never reads 10 MB a second, beside 1000 that read", STALLED, measure_stalled,
         limits=(60, 120), rounds=(1, 5)),
    Axis("watch/idle", "100 000 watchers to whom nothing happens (quick: 20 000)", IDLE, measure_idle,
         limits=(60, 120), rounds=(1, 2)),
)
