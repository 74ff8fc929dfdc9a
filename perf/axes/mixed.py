"""Readers beside writers."""

from lib.axis import Axis, p50, p99, rate
from lib.musts import Part

SPACE = "20k"
KEYS = ("--key-prefix", "read/", "--key-size", 32, "--key-space", SPACE)
FIGURES = (rate("read"), p50("read"), p99("read", Part(10)))


def fill(run):
    run.fill("read/", SPACE, 256)


def measure(run):
    # The writers' time is bounded too, but they are not meant to be done before the reader.
    with run.start("put", "--conns", 100, "--clients", 1000, *KEYS, "--duration", run.seconds(15, 30)):
        phase = run.load("range", *KEYS, "--warmup", "1s", "--duration", run.seconds(4, 7))
    return {"rate": phase.rate, "p50": phase.latency("range", "p50"), "p99": phase.latency("range", "p99")}


AXES = (Axis("mixed/reader-beside-writers", "one client's linearizable reads beside 1000 clients that put", FIGURES,
             measure, fill),)
