"""A control plane's load."""

from lib.axis import Axis, Figure, cpu, p50, p99
from lib.musts import Part

FIGURES = (cpu("operation", Part(4)), p50("event"), p99("event"),
           Figure("write", "node heartbeat p99, ms", 3), Figure("anon", "RssAnon at most, MiB", 1))


def measure(run):
    phase = run.load("kubernetes", "--nodes", 1000, "--pods-per-node", run.pick(5, 30), "--apiservers", 3,
                     "--duration", run.seconds(8, 30), "--compact", run.seconds(3, 10))
    return {"cpu": phase.cpu_per_operation, "p50": phase.latency("watch delay", "p50"),
            "p99": phase.latency("watch delay", "p99"), "write": phase.latency("node lease", "p99"),
            "anon": phase.anon("peak")}


AXES = (Axis("kubernetes/1000-nodes", "heartbeats, pods, events, lists, watches and compaction of 1000 nodes", FIGURES,
             measure, limits=(60, 120), rounds=(1, 2)),)
