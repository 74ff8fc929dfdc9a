"""The disk below the servers: how fast it makes 4 KiB durable without them, and what everybody writes to it."""

import mmap
import os
import time

BLOCK = 4096
BLOCKS = 4096
SECTOR = 512


def overwrites(folder, seconds):
    """Latencies, in seconds and sorted, of overwriting 4 KiB blocks of a zero-filled file one after the other."""
    path = os.path.join(folder, "overwrites")
    block = mmap.mmap(-1, BLOCK)
    block.write(b"\x5a" * BLOCK)
    took = []
    try:
        with open(path, "wb") as file:
            file.write(bytes(BLOCK * BLOCKS))
            os.fsync(file.fileno())
        target = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC)
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                began = time.perf_counter()
                os.pwrite(target, block, len(took) % BLOCKS * BLOCK)
                took.append(time.perf_counter() - began)
        finally:
            os.close(target)
    finally:
        os.remove(path)
    return sorted(took)


def written(folder):
    """Bytes that have been written to the disk of a folder since it is there, by whomever; None when nobody counts."""
    device = os.stat(folder).st_dev
    try:
        with open(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat") as file:
            return int(file.read().split()[6]) * SECTOR
    except OSError:
        return None
