"""Kubernetes' writes."""

from lib.axis import Axis, usual
from lib.musts import Part

FIGURES, values = usual("write", "written", cpu_must=Part(4))


def measure(run):
    return values(run.load("txn", "--conns", 100, "--clients", 1000, "--key-size", 32, "--key-space", "100k",
                           "--val-size", 256, "--warmup", "500ms", "--duration", run.seconds()))


AXES = (
    Axis("txn/compare-and-put", "puts if the key is unchanged, reads otherwise: 1000 clients on 100 connections",
         FIGURES, measure),
)
