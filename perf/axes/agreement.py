"""Whether kevel-bench's figures are to be trusted: beside etcd's own tool, in turns, on the same etcd."""

from lib.axis import Axis, p50, p99, rate
from lib.musts import Near

ONE = ("--conns", 1, "--clients", 1)
MANY = ("--conns", 10, "--clients", 100)
PER_SECOND = 500


def fill(run):
    run.fill("read/", 1000, 256)


def puts(*load, total):
    def measure(run):
        bounded = ("put", *load, "--total", run.pick(*total), "--key-size", 32, "--val-size", 256)
        if run.side.tool == "benchmark":
            return run.benchmark(*bounded, "--key-space-size", 10_000)
        return run.load(*bounded, "--key-space", 10_000).rate_and_latency("put")

    return measure


def reads(*load, total):
    def measure(run):
        bounded = (*load, "--total", run.pick(*total))
        key = "read/".ljust(32, "0")
        if run.side.tool == "benchmark":
            return run.benchmark("range", key, *bounded)
        return run.load("range", "--only", key, *bounded).rate_and_latency("range")

    return measure


def axis(name, about, what, measure, rate_must):
    figures = (rate(what, rate_must), p50(what, Near(1.25)), p99(what))
    return Axis(f"tool/{name}", about, figures, measure, fill, rounds=(3, 7), compares_tools=True)


# What many clients see depends on how soon each tool wakes them, and etcd's is late on the one CPU that it has here:
# few enough operations a second that none waits for another.
AXES = (
    axis("put-1-client", "one client's puts, closed loop", "put", puts(*ONE, total=(1000, 3000)), Near(1.25)),
    axis("range-1-client", "one client's linearizable reads of one key, closed loop", "read",
         reads(*ONE, total=(3000, 8000)), Near(1.25)),
    axis("put", f"{PER_SECOND} puts a second, 100 clients on 10 connections", "put",
         puts(*MANY, "--rate", PER_SECOND, total=(1000, 3000)), Near(1.1)),
    axis("range", f"{PER_SECOND} linearizable reads of one key a second, 100 clients on 10 connections", "read",
         reads(*MANY, "--rate", PER_SECOND, total=(1000, 3000)), Near(1.1)),
)
