"""Puts of 256 bytes: many clients, and one."""

from lib import disk
from lib.axis import Axis, Figure, usual
from lib.musts import Most, Part, Times

PUT = ("put", "--key-size", 32, "--val-size", 256, "--key-space", "100k", "--warmup", "500ms")
MANY, many_values = usual("put", "put", cpu_must=Part(4), rate_must=Times(2))
ONE, one_values = usual("put", "put", cpu_must=Part(2.5))


def measure_many(run):
    return many_values(run.load(*PUT, "--conns", 100, "--clients", 1000, "--duration", run.seconds()))


def measure_one(run):
    overwrites = disk.overwrites(run.server.folder, run.pick(1, 2))
    values = one_values(run.load(*PUT, "--duration", run.seconds()))
    raw = overwrites[len(overwrites) // 2] * 1e3
    return values | {"raw": raw, "above": (values["p50"] - raw) * 1e3}


AXES = (
    Axis("put/1000-clients", "puts of 256 bytes, 1000 clients on 100 connections, closed loop", MANY, measure_many),
    Axis("put/1-client", "puts of 256 bytes, one client; beside it the disk's own 4 KiB durable overwrite",
         (*ONE, Figure("raw", "overwrite of 4 KiB with O_DIRECT and O_DSYNC p50, ms", 3),
          Figure("above", "put p50 above that, us", 0, Most(100))), measure_one),
)
