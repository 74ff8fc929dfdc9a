"""All axes, by theme, in the order in which they are run and reported."""

from axes import agreement, cluster, etcd_tool, kubernetes, lease, listing, mixed, put, range, store, tls, txn, watch

ALL = (*put.AXES, *range.AXES, *txn.AXES, *mixed.AXES, *listing.AXES, *watch.AXES, *lease.AXES, *store.AXES,
       *kubernetes.AXES, *cluster.AXES, *agreement.AXES, *tls.AXES, *etcd_tool.AXES)


def select(names):
    """The axes of these names and groups; those of a run that names none when there are none."""
    if not names:
        return [axis for axis in ALL if axis.is_default]
    for name in names:
        if not any(name in (axis.name, axis.group) for axis in ALL):
            raise ValueError(f"no axis and no group of axes is called {name}")
    return [axis for axis in ALL if axis.name in names or axis.group in names]
