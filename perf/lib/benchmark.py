"""etcd's own load tool: what its summary says."""

import os
import re

from lib.child import Child, Failure


def run(binary, arguments, server, folder, number, deadline, cpus=None):
    """Runs it to its end; returns operations per second and latencies in milliseconds."""
    command = [binary, *arguments, "--endpoints", f"127.0.0.1:{server.port}", "--precise"]
    with Child(command, os.path.join(folder, f"benchmark-{number}.log"), cpus) as child:
        status = child.wait(deadline)
        server.check()
        with open(child.words, errors="replace") as file:
            text = file.read()
    errors = re.findall(r"\[\d+\]\s+(?:rpc error|context|etcd).*", text)
    # Where it measures twice, as for watches made and events seen, the last is what we are after.
    last = lambda pattern: float(re.findall(pattern, text)[-1])
    if status or errors or "Requests/sec" not in text:
        raise Failure(f"benchmark ended with {status}: {errors[:1] or child.last_words()}")
    return {"rate": last(r"Requests/sec:\s+([\d.]+)"), "p50": last(r"  50% in ([\d.]+) secs") * 1e3,
            "p99": last(r"  99% in ([\d.]+) secs") * 1e3}
