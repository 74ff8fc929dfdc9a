"""Whether kevel-bench's figures are to be trusted: beside etcd's own tool, in turns, on the same etcd."""

from lib.axis import Axis, p50, p99, rate
from lib.musts import Near

LOAD = ("--conns", 10, "--clients", 100)
PUTS_PER_SECOND, READS_PER_SECOND = 1000, 2000


def fill(run):
    run.fill("read/", 1000, 256)


def put(run):
    seconds = run.pick(4, 10)
    puts = ("put", *LOAD, "--rate", PUTS_PER_SECOND, "--total", PUTS_PER_SECOND * seconds, "--key-size", 32,
            "--val-size", 256)
    if run.side.tool == "benchmark":
        return run.benchmark(*puts, "--key-space-size", 10_000)
    return run.load(*puts, "--key-space", 10_000).rate_and_latency("put")


def reads(*load, total):
    def measure(run):
        bounded = (*load, "--total", run.pick(*total))
        key = "read/".ljust(32, "0")
        if run.side.tool == "benchmark":
            return run.benchmark("range", key, *bounded)
        return run.load("range", "--only", key, *bounded).rate_and_latency("range")

    return measure


def axis(name, about, what, measure, rate_must=None, p50_must=None):
    figures = (rate(what, rate_must), p50(what, p50_must), p99(what))
    return Axis(f"tool/{name}", about, figures, measure, fill, compares_tools=True)


AXES = (
    axis("put", f"{PUTS_PER_SECOND} puts a second, 100 clients on 10 connections", "put", put,
         Near(1.1), Near(1.25)),
    axis("range", f"{READS_PER_SECOND} linearizable reads of one key a second, 100 clients on 10 connections", "read",
         reads(*LOAD, "--rate", READS_PER_SECOND, total=(8_000, 20_000)), Near(1.1), Near(1.25)),
    # Here each tool's own time is part of every operation.
    axis("range-1-client", "one client's linearizable reads of one key, closed loop", "read",
         reads("--conns", 1, "--clients", 1, total=(4_000, 20_000))),
)
