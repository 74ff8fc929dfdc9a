"""Plays axes: both sides in turns, A B A B, each run with a server of its own on the same disk."""

import itertools
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import islice

from lib.child import Failure
from lib.result import Result
from lib.run import Run
from lib.server import Cluster, Server
from lib.wire import Refused

# A run that ends with one of these has failed; the others go on.
FAILURES = (Failure, Refused, OSError, subprocess.SubprocessError, LookupError, ValueError, ZeroDivisionError)

# Ports that a member takes at most: for clients, for members, and for clients under TLS.
PORTS = 3


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: a server, or a load tool on a server."""
    label: str
    store: str
    binary: str
    tool: str


@dataclass(frozen=True)
class Prepared:
    """A filled store, and the ports that its members have."""
    folder: str
    ports: list


class Contest:
    """All axes of a run. Leaving its context removes all data."""

    def __init__(self, programs, labels, is_quick, rounds=None, first_port=None):
        self.programs, self.labels, self.is_quick, self.rounds = programs, labels, is_quick, rounds
        self.ports = itertools.count(first_port) if first_port else free_ports()
        disk = os.path.abspath(os.environ.get("PERF_DIR", tempfile.gettempdir()))
        self.folder = tempfile.mkdtemp(prefix="perf-", dir=disk)
        self.stores = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder, ignore_errors=True)

    def sides(self, axis):
        """Theirs and ours."""
        tools = ("benchmark", "kevel-bench")
        if axis.compares_tools:
            return [Side(tool, "etcd", self.programs.etcd, tool) for tool in tools]
        binaries = (self.programs.etcd, self.programs.kevel)
        return [Side(label, store, binary, tools[1])
                for label, store, binary in zip(self.labels, ("etcd", "kevel"), binaries)]

    def play(self, axis):
        """All rounds of an axis."""
        result = Result(axis, self.sides(axis))
        play = self.play_tools if axis.compares_tools else self.play_servers
        play(result, self.rounds or axis.rounds[not self.is_quick])
        return result

    def play_servers(self, result, rounds):
        measure = self.on_prepared if result.axis.prepare else self.on_fresh
        try:
            for _ in range(rounds):
                for side in result.sides:
                    self.attempt(result, side, measure)
        finally:
            for prepared in self.stores.values():
                if prepared:
                    shutil.rmtree(prepared.folder, ignore_errors=True)
            self.stores.clear()

    def play_tools(self, result, rounds):
        """On one server that stays up: it differs more from start to start than the tools do. It and they have CPUs of
        their own, since a tool that takes its server's time measures itself."""
        server_cpus, tool_cpus = halves(os.sched_getaffinity(0))
        with (tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as folder,
              Server(result.sides[0].binary, folder, self.ports, server_cpus) as server):
            is_ready = False

            def measure(result, side):
                nonlocal is_ready
                if not is_ready:
                    # What failed halfway begins anew.
                    server.kill()
                    run = self.run(result, side, server, tool_cpus)
                    server.start(run.deadline)
                    result.axis.prepare(run)
                    is_ready = True
                return result.axis.measure(self.run(result, side, server, tool_cpus))

            for _ in range(rounds):
                for side in result.sides:
                    self.attempt(result, side, measure)

    def attempt(self, result, side, measure):
        """A run that may fail."""
        began = time.monotonic()
        try:
            values = measure(result, side)
        except FAILURES as failure:
            shown = str(failure) if isinstance(failure, Failure) else repr(failure)
            result.fail(side, shown)
        else:
            result.add(side, values)
            shown = ", ".join(f"{key} {value:.6g}" for key, value in values.items())
        took = time.monotonic() - began
        print(f"{result.axis.name:32} {side.label:12} {took:4.0f} s  {shown}", file=sys.stderr, flush=True)

    def on_fresh(self, result, side):
        folder = tempfile.mkdtemp(dir=self.folder)
        try:
            return self.with_server(result, side, folder, self.ports, result.axis.measure)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def on_prepared(self, result, side):
        if side.store not in self.stores:
            # Not ready until it is: what failed halfway is not measured in later rounds.
            self.stores[side.store] = None
            # Members find each other by the addresses in their stores, so a store keeps its ports.
            prepared = Prepared(tempfile.mkdtemp(dir=self.folder), list(islice(self.ports, PORTS * result.axis.members)))
            self.with_server(result, side, prepared.folder, iter(prepared.ports), result.axis.prepare)
            self.stores[side.store] = prepared
        prepared = self.stores[side.store]
        if not prepared:
            raise Failure("its store could not be prepared")
        return self.with_server(result, side, prepared.folder, iter(prepared.ports), result.axis.measure)

    def with_server(self, result, side, folder, ports, step):
        """Takes a step on a started server."""
        members, is_secured = result.axis.members, result.axis.is_secured
        if members == 1:
            server = Server(side.binary, folder, ports, is_secured=is_secured)
        else:
            server = Cluster(side.binary, folder, ports, members, is_secured)
        run = self.run(result, side, server)
        with run.server as server:
            server.start(run.deadline)
            outcome = step(run)
            if result.axis.prepare:
                server.stop()
            return outcome

    def run(self, result, side, server, cpus=None):
        note = lambda tool, arguments: result.note(shlex.join([tool, *map(str, arguments)]))
        limit = result.axis.limits[not self.is_quick]
        return Run(side, server, self.programs, self.is_quick, limit, note, cpus)


def halves(cpus):
    """Two sets of CPUs, one for each of two; nothing is bound where there is one CPU."""
    cpus = sorted(cpus)
    middle = len(cpus) // 2
    return (set(cpus[:middle]), set(cpus[middle:])) if middle else (None, None)


def free_ports():
    """Ports that nobody listens on just now."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        yield port
