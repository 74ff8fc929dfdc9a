"""kevel-bench: what is run, and what its JSON says."""

import json
import os

from lib.child import Child, Failure

MIB = 1 << 20


class Phase:
    """The measurements of one phase of a load."""

    def __init__(self, figures):
        self.figures = figures
        self.operations = figures["ops"]
        self.rate = figures["ops_per_s"]
        self.missing = figures["events_missing"]
        self.failed = sum(error["count"] for error in figures["errors"].values())

    def operations_of(self, kind):
        return self.figures["classes"][kind]["ops"]

    def rate_of(self, kind):
        return self.figures["classes"][kind]["ops_per_s"]

    def latency(self, kind, quantile):
        """Milliseconds."""
        if not self.operations_of(kind):
            raise Failure(f"no {kind} was measured")
        return self.figures["classes"][kind]["latency_ms"][quantile]

    def rate_and_latency(self, kind):
        """Values of the figures "rate", "p50" and "p99"."""
        return {"rate": self.rate_of(kind), "p50": self.latency(kind, "p50"), "p99": self.latency(kind, "p99")}

    @property
    def cpu(self):
        """CPU seconds of all servers."""
        return sum(server["cpu_s"] for server in self.figures["servers"])

    @property
    def cpu_per_operation(self):
        """Microseconds of all servers."""
        return sum(server["cpu_us_per_op"] for server in self.figures["servers"])

    def anon(self, when):
        """MiB of the servers that no file backs, at the phase's "start", "peak" or "end"."""
        return sum(server["rss_anon"][when] for server in self.figures["servers"]) / MIB


class Load:
    """A run of kevel-bench against a server. Leaving its context kills it."""

    def __init__(self, binary, arguments, server, folder, number, cpus=None):
        self.results = os.path.join(folder, f"load-{number}.json")
        self.server = server
        pids = [argument for pid in server.pids for argument in ("--server-pid", str(pid))]
        trust = ["--insecure-skip-tls-verify"] if server.is_secured else []
        self.child = Child([binary, *arguments, "--endpoints", server.endpoint, *trust, *pids, "--quiet",
                            f"--json={self.results}"], os.path.join(folder, f"load-{number}.log"), cpus)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.kill()

    def interrupt(self):
        """Ends it early: what it has measured counts."""
        self.child.interrupt()

    def phases(self, deadline):
        """Waits for it; returns its phases, the one of interest last."""
        status = self.child.wait(deadline)
        self.server.check()
        if status != 0:
            raise Failure(f"kevel-bench ended with {status}: {self.child.last_words()}")
        with open(self.results) as file:
            return [Phase(phase) for phase in json.load(file)["phases"]]
