"""What lies on disk: compaction, restart, bytes written."""

import time

from lib import disk, etcd, process
from lib.axis import Axis, Figure
from lib.musts import Most, Part

COMPACTION = (Figure("took", "compaction, s", 2), Figure("quiet", "put p99 before, ms", 3),
              Figure("p50", "put p50 meanwhile, ms", 3), Figure("p99", "put p99 meanwhile, ms", 3),
              Figure("times", "put p99 meanwhile, times before", 2, Most(1.5)))
RESTART = (Figure("restart", "SIGKILL to the first linearizable read, s", 3, Most(1)),)
# What the kernel counts for a process is not what the disk is given: who changes one page of a large folio of the page
# cache is charged with all of it (67 KB for 4, after a file was written in steps of 1 MB, on Linux 6.18).
WRITTEN = (Figure("disk", "bytes written to the disk by all per put", 0, Part(1)),
           Figure("bytes", "bytes that the kernel charges the server with per put", 0))

PROBE = ("put", "--rate", 500, "--clients", 500, "--key-prefix", "probe/", "--val-size", 256)
# Seconds without a write: when what a start causes is over, and when a server has also written what could wait, which
# Kevel lets wait for a minute (a quick run sees only what could not).
STARTED_AFTER, SETTLED_AFTER, SETTLED_AFTER_QUICK, SETTLE_MAX = 2, 66, 6, 150


def measure_compaction(run):
    keys = run.pick("100k", "1M")
    for _ in range(2):
        run.fill("dead/", keys, 64)
    quiet = run.load(*PROBE, "--duration", run.seconds(3, 10)).latency("put", "p99")
    revision = etcd.revision(run.server.port, run.deadline.left())
    with run.start(*PROBE, "--duration", f"{run.pick(40, 120)}s") as probe:
        time.sleep(0.5)
        began = time.monotonic()
        etcd.compact(run.server.port, revision, run.deadline.left())
        took = time.monotonic() - began
        probe.interrupt()
        phase = probe.phases(run.deadline)[-1]
    beside = phase.latency("put", "p99")
    return {"took": took, "quiet": quiet, "p50": phase.latency("put", "p50"), "p99": beside, "times": beside / quiet}


def restart_keys(run):
    return run.pick("100k", "4M")


def fill_for_restart(run):
    run.fill("restart/", restart_keys(run), 1000)


def measure_restart(run):
    # So that there is a log to read again.
    run.load("put", "--conns", 100, "--clients", 1000, "--key-prefix", "restart/", "--key-size", 32, "--key-space",
             restart_keys(run), "--val-size", 1000, "--duration", run.seconds(2, 4))
    run.server.kill()
    return {"restart": run.server.start(run.deadline)}


def bytes_keys(run):
    return run.pick("200k", "1M")


def fill_for_bytes(run):
    run.fill("bytes/", bytes_keys(run), 256)


def measure_bytes(run):
    pid, folder = run.server.pid, run.server.folder
    settle(run, STARTED_AFTER)
    server, everybody = process.written(pid), disk.written(folder)
    phase = run.load("put", "--conns", 100, "--clients", 1000, "--key-prefix", "bytes/", "--key-size", 32,
                     "--key-space", bytes_keys(run), "--val-size", 256, "--duration", run.seconds(5, 20))
    settle(run, run.pick(SETTLED_AFTER_QUICK, SETTLED_AFTER))
    values = {"bytes": (process.written(pid) - server) / phase.operations}
    if everybody is not None:
        values["disk"] = (disk.written(folder) - everybody) / phase.operations
    return values


def settle(run, quiet):
    """Waits until the server has written nothing for `quiet` seconds: what it writes behind the puts counts too."""
    end = time.monotonic() + min(SETTLE_MAX, run.deadline.left())
    last, since = process.written(run.server.pid), time.monotonic()
    while time.monotonic() < min(end, since + quiet):
        time.sleep(0.1)
        now = process.written(run.server.pid)
        if now != last:
            last, since = now, time.monotonic()


AXES = (
    Axis("store/compaction", "1 000 000 dead revisions are compacted beside 500 puts a second (quick: 100 000)",
         COMPACTION, measure_compaction, limits=(60, 240), rounds=(1, 1)),
    Axis("store/restart", "restart with 4 GB of data, in the page cache (quick: 100 MB)", RESTART, measure_restart,
         fill_for_restart, limits=(60, 420)),
    Axis("store/bytes-per-put", "puts of 256 bytes to random keys out of 1 000 000, 1000 clients (quick: 200 000 keys)",
         WRITTEN, measure_bytes, fill_for_bytes, limits=(60, 240), rounds=(1, 1)),
)
