"""Loads of other groups over TLS, by certificates that the servers make for themselves. Members of a cluster speak TLS
with one another too."""

from dataclasses import replace

from axes import cluster, listing, put, range
from lib.musts import Part

SAME = {axis.name: axis for axis in (*put.AXES, *range.AXES, *listing.AXES, *cluster.AXES)}


def secured(name, plain):
    axis = SAME[plain]
    figures = tuple(replace(figure, must=Part(3) if figure.key == "cpu" else None) for figure in axis.figures)
    return replace(axis, name=f"tls/{name}", about=f"{axis.about}, over TLS", figures=figures, is_secured=True)


AXES = (
    secured("put", "put/1000-clients"),
    secured("range", "range/linearizable-1000-clients"),
    secured("list", "list/1-caller"),
    secured("cluster-put", "cluster/put-1000-clients"),
    secured("cluster-range", "cluster/linearizable-follower"),
)
