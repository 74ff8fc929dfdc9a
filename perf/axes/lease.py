"""Leases that are kept alive, and leases that all end at once."""

import math

from lib.axis import Axis, Figure, usual
from lib.musts import Most, Part

KEEP_ALIVE, keep_alive_values = usual("renewal", "keep-alive", cpu_must=Part(5))
# All revoked within 15 s when they end within 10: none is later than 5.
FLOOD = (Figure("granted", "leases granted before the first ends", 0),
         Figure("revoked", "of them revoked, per cent", 1), Figure("late", "the last one's delay, s", 1, Most(5)),
         Figure("failed", "puts failed", 0), Figure("quiet", "put p99 without leases, ms", 3),
         Figure("p50", "put p50 while they end, ms", 3), Figure("p99", "put p99 while they end, ms", 3),
         Figure("times", "put p99 while they end, times quiet", 2, Most(2)))
PROBES_PER_SECOND = 200


def measure_keep_alive(run):
    return keep_alive_values(run.load("lease", "keep-alive", "--ttl", 60, "--conns", 100, "--clients", 1000,
                                      "--warmup", "500ms", "--duration", run.seconds()))


def measure_flood(run):
    quiet = run.load("put", "--rate", PROBES_PER_SECOND, "--duration", run.seconds(3, 10)).latency("put", "p99")
    leases, ttl, within = run.pick((10_000, 6, 5), (1_000_000, 120, 10))
    phase = run.load("lease", "expire", "--leases", leases, "--ttl", ttl, "--within", within, "--patience", "15s",
                     "--probe-rate", PROBES_PER_SECOND, "--conns", 10, "--clients", 200, "--allow-errors")
    gone = phase.operations_of("late")
    granted = gone + phase.missing
    beside = phase.latency("probe put", "p99")
    late = math.inf if phase.missing else phase.latency("late", "max") / 1e3
    return {"granted": granted, "revoked": 100 * gone / max(granted, 1), "late": late,
            "failed": phase.failed, "quiet": quiet, "p50": phase.latency("probe put", "p50"),
            "p99": beside, "times": beside / quiet}


AXES = (
    Axis("lease/keep-alive", "renewals, 1000 streams on 100 connections", KEEP_ALIVE, measure_keep_alive),
    Axis("lease/flood", "what was granted of 1 000 000 leases in two minutes, a key each, ends within 10 s beside 200 "
         "puts a second (quick: 10 000 leases, 5 s)", FLOOD, measure_flood, limits=(60, 240), rounds=(1, 1)),
)
