"""What an axis is: what is measured, on which sides, and what must come out."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """Something measured. `key` is its name in what `measure` returns; plots know "rate", "cpu", "p50" and "p99"."""
    key: str
    label: str
    digits: int = 1
    must: object = None


@dataclass(frozen=True)
class Axis:
    """One thing to compare."""
    name: str
    about: str
    figures: tuple
    # Given a lib.run.Run with a started server, measures and returns a value per figure's key.
    measure: Callable
    # Fills a store, once per server; the rounds go on with what it leaves. Without it every run has a fresh store.
    prepare: Callable = None
    # Seconds that one run, or the preparation, may take at most: quick and full.
    limits: tuple = (40, 90)
    # Rounds: quick and full.
    rounds: tuple = (1, 3)
    # Members of each side's cluster.
    members: int = 1
    # Whether clients come by TLS, and members of a cluster to one another.
    is_secured: bool = False
    # Whether two load tools are compared on the same etcd, instead of two servers under the same tool.
    compares_tools: bool = False
    # Whether it belongs to a run that names no axis.
    is_default: bool = True

    @property
    def group(self):
        return self.name.partition("/")[0]


def rate(what, must=None):
    return Figure("rate", f"{what} per second", 0, must)


def cpu(what, must=None):
    return Figure("cpu", f"server CPU, us per {what}", 1, must)


def p50(what, must=None):
    return Figure("p50", f"{what} p50, ms", 3, must)


def p99(what, must=None):
    return Figure("p99", f"{what} p99, ms", 3, must)


def usual(what, kind, cpu_must=None, rate_must=None, p50_must=None):
    """The figures of a load with one class of operation, and what takes them from its last phase."""
    figures = (rate(what, rate_must), p50(what, p50_must), p99(what), cpu(what, cpu_must))

    def values(phase):
        return phase.rate_and_latency(kind) | {"cpu": phase.cpu_per_operation}

    return figures, values
