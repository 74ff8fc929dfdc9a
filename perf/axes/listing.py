"""Lists of 100 000 objects of 1000 bytes; a fifth of them in a quick run."""

from lib.axis import Axis, Figure, cpu, p50, p99, rate
from lib.musts import Most, Part


def objects(run):
    return run.pick("20k", "100k")


def fill(run):
    run.fill("list/", objects(run), 1000, key_size=24)


def lists(name, about, callers, how, anon_must):
    figures = (rate("list"), p50("list"), p99("list"), cpu("list", Part(4)),
               Figure("grown", "RssAnon growth, MiB", 1, anon_must))

    def measure(run):
        phase = run.load("list", "--no-fill", "--key-prefix", "list/", "--objects", objects(run), "--object-size", 1000,
                         "--clients", callers, *how, "--duration", run.seconds(4, 10))
        return {"rate": phase.rate, "p50": phase.latency("list", "p50"), "p99": phase.latency("list", "p99"),
                "cpu": phase.cpu_per_operation, "grown": phase.anon("peak") - phase.anon("start")}

    return Axis(f"list/{name}", about, figures, measure, fill)


AXES = (
    lists("1-caller", "one caller lists all objects in one answer", 1, (), Most(64)),
    lists("8-callers", "eight callers list all objects, each in one answer", 8, (), Most(64)),
    lists("stream", "one caller lists all objects with RangeStream", 1, ("--stream",), None),
)
