"""Three members on this machine, with the load and one another: puts through all of them, reads through a follower."""

from lib.axis import Axis, usual
from lib.musts import Part, Times

MEMBERS = 3
MANY = ("--conns", 100, "--clients", 1000)
PUT = ("put", "--key-size", 32, "--val-size", 256, "--key-space", "100k", "--warmup", "500ms")
KEYS = "20k"


def puts(name, about, load, **musts):
    figures, values = usual("put", "put", **musts)

    def measure(run):
        return values(run.load(*PUT, *load, "--duration", run.seconds()))

    return Axis(f"cluster/{name}", f"three members: {about}", figures, measure, members=MEMBERS)


def reads(name, consistency, must):
    figures, values = usual("read", "range", cpu_must=must)

    def fill(run):
        run.fill("read/", KEYS, 256)

    def measure(run):
        follower = run.server.follower(run.deadline)
        return values(run.load("range", "--key-prefix", "read/", "--key-size", 32, "--key-space", KEYS, "--consistency",
                               consistency, *MANY, "--warmup", "500ms", "--duration", run.seconds(), on=follower))

    return Axis(f"cluster/{name}-follower", f"three members: {name} reads of one key through a follower, 1000 clients",
                figures, measure, fill, members=MEMBERS)


AXES = (
    puts("put-1000-clients", "puts of 256 bytes, 1000 clients on 100 connections", MANY, cpu_must=Part(4),
         rate_must=Times(2)),
    puts("put-1-client", "puts of 256 bytes, one client", (), p50_must=Part(1)),
    reads("linearizable", "l", Part(3)),
    reads("serializable", "s", Part(6)),
)
