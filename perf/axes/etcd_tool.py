"""Both servers under etcd's own load tool. It takes more than half of a two-core machine itself, so that throughput
says less here than the server's CPU time. A quick run does a tenth of the operations."""

import time

from lib import process
from lib.axis import Axis, cpu, p50, p99, rate
from lib.child import Child

KEYS = 100_000
KEY = "read/".ljust(32, "0")
SPACE = ("--key-size", 32, "--val-size", 256, "--key-space-size", KEYS)
PUT = ("put", *SPACE)
RANGE = ("range", KEY)
SERIAL = ("range", KEY, "--consistency", "s")
TXN = ("txn-mixed", KEY, "--end-key", KEY + "0", "--limit", 10, *SPACE)
WATCHERS = ("--streams", 10, "--watch-per-stream", 100)
WATCHES = 1000

# Name, connections, clients, what is asked, the option that says how often, how often, operations of each.
SCENARIOS = (
    ("put-1x1", 1, 1, PUT, "--total", 5_000, 1),
    ("put-100x1", 100, 100, PUT, "--total", 50_000, 1),
    ("put-100x10", 100, 1000, PUT, "--total", 100_000, 1),
    ("range-l-1x1", 1, 1, RANGE, "--total", 10_000, 1),
    ("range-l-100x1", 100, 100, RANGE, "--total", 100_000, 1),
    ("range-l-100x10", 100, 1000, RANGE, "--total", 200_000, 1),
    ("range-s-1x1", 1, 1, SERIAL, "--total", 10_000, 1),
    ("range-s-100x1", 100, 100, SERIAL, "--total", 100_000, 1),
    ("range-s-100x10", 100, 1000, SERIAL, "--total", 200_000, 1),
    ("txn-mixed", 100, 1000, TXN, "--total", 100_000, 1),
    ("watch", 10, 10, ("watch", *WATCHERS, "--watched-key-total", 1), "--put-total", 2_000, WATCHES),
    ("lease-keepalive", 100, 100, ("lease-keepalive",), "--total", 100_000, 1),
)


def fill(run):
    run.benchmark(*PUT, "--sequential-keys", "--conns", 100, "--clients", 1000, "--total", run.pick(KEYS // 10, KEYS))
    run.fill("read/", 1, 256)


def scenario(name, conns, clients, asked, option, count, operations):
    def measure(run):
        times = max(clients, run.pick(count // 10, count))
        before = process.cpu(run.server.pid)
        values = run.benchmark(*asked, "--conns", conns, "--clients", clients, option, times)
        used = process.cpu(run.server.pid) - before
        return values | {"cpu": used / (times * operations) * 1e6}

    figures = (rate("operation"), p50("operation"), p99("operation"), cpu("operation"))
    about = f"{asked[0]}, {clients} clients on {conns} connections"
    return axis(name, about, figures, measure)


def reader_beside_writers(run):
    writers = [run.programs.benchmark, "--endpoints", f"127.0.0.1:{run.server.port}", "--conns", "100",
               "--clients", "100", *map(str, PUT), "--total", str(run.pick(100_000, 500_000))]
    run.note("benchmark", writers[3:])
    with Child(writers, f"{run.server.folder}/writers.log"):
        time.sleep(0.3)
        return run.benchmark(*RANGE, "--conns", 1, "--clients", 1, "--total", run.pick(300, 3_000))


def axis(name, about, figures, measure):
    return Axis(f"etcd-tool/{name}", about, figures, measure, fill, limits=(60, 120), rounds=(1, 2), is_default=False)


AXES = (*(scenario(*line) for line in SCENARIOS),
        axis("reader-beside-writers", "one reader beside 100 clients that put",
             (rate("read"), p50("read"), p99("read")), reader_beside_writers))
