"""What /proc tells of a process."""

import os
import re

TICKS = os.sysconf("SC_CLK_TCK")


def cpu(pid):
    """CPU seconds of all its threads so far, user and system."""
    with open(f"/proc/{pid}/stat") as file:
        # Behind the name, which may hold anything: fields 14 and 15 of the whole line.
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def written(pid):
    """Bytes it has caused to be written to storage, without what was thrown away before it got there."""
    with open(f"/proc/{pid}/io") as file:
        text = file.read()
    number = lambda name: int(re.search(rf"^{name}: (\d+)", text, re.MULTILINE)[1])
    return number("write_bytes") - number("cancelled_write_bytes")
