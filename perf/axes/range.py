"""Reads of one key out of 100 000; a fifth of them in a quick run."""

from lib.axis import Axis, usual
from lib.musts import Part


def keys(run):
    return run.pick("20k", "100k")


def fill(run):
    run.fill("read/", keys(run), 256)


def reads(name, about, consistency, load, must):
    figures, values = usual("read", "range", cpu_must=must)

    def measure(run):
        return values(run.load("range", "--key-prefix", "read/", "--key-size", 32, "--key-space", keys(run),
                               "--consistency", consistency, *load, "--warmup", "500ms", "--duration", run.seconds()))

    return Axis(f"range/{name}", f"{about} reads of one key", figures, measure, fill)


MANY = ("--conns", 100, "--clients", 1000)
AXES = (
    reads("linearizable-1000-clients", "linearizable", "l", MANY, Part(5)),
    reads("serializable-1000-clients", "serializable", "s", MANY, Part(5)),
    reads("linearizable-1-client", "one client's linearizable", "l", (), Part(2)),
    reads("serializable-1-client", "one client's serializable", "s", (), Part(2)),
)
