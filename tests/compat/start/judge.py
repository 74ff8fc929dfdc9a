#!/usr/bin/env python3
"""Gives the same flags, variables, configuration files and signals to etcd and to another server, and compares what becomes of
them: whether the server serves, with which status it exits, and what it says its configuration is. Data directories are
given too: with what may lie in them, and after one server was started on the directory of the other.

    judge.py --etcd BINARY --server BINARY [--quick] [--only WORD] [--verbose]

Each case runs on both servers, one after the other, with the same ports and with a data directory of its own. A server has
started when /health answers on its client port. The line "starting an etcd server", which both write, holds the configuration
as the server understood it; its fields are compared. What may differ is in `cases.EXCUSED`, each with its reason.
"""
import argparse
import concurrent.futures
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import cases

# A new member writes its log full of zeros, so hundreds of them are made in memory where that can be.
FOLDER = "/dev/shm" if os.path.isdir("/dev/shm") else None
START_SECONDS = 30.0
END_SECONDS = 15.0
# Fields of "starting an etcd server" that say what the configuration means.
FIELDS = [
    "name", "heartbeat-interval", "election-timeout", "snapshot-count", "max-wals", "snapshot-catchup-entries",
    "initial-advertise-peer-urls", "listen-peer-urls", "advertise-client-urls", "listen-client-urls", "listen-metrics-urls",
    "cors", "host-whitelist", "initial-cluster", "initial-cluster-state", "initial-cluster-token", "quota-backend-bytes",
    "max-request-bytes", "pre-vote", "auto-compaction-mode", "auto-compaction-retention",
]


def free_ports(count):
    """Ports that nothing listens on now, below those that the kernel hands out by itself."""
    found = []
    port = 21000 + (os.getpid() * 37) % 9000
    while len(found) < count:
        port += 1
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        found.append(port)
    return found


class Run:
    """One start of one server."""

    def __init__(self, binary, case, ports, folder):
        self.dir = folder
        self.ports = ports
        words = {"C": ports[0], "P": ports[1], "M": ports[2], "H": ports[3], "D": self.dir}
        fill = lambda text: str(text).replace("{C}", str(words["C"])).replace("{P}", str(words["P"])).replace(
            "{M}", str(words["M"])).replace("{H}", str(words["H"])).replace("{D}", self.dir)
        argv = [binary]
        if case.file is not None:
            path = os.path.join(self.dir, "config.yml")
            body = case.encode(fill(case.file))
            with open(path, "wb") as out:
                out.write(body)
            argv.append(f"--config-file={path}")
        argv += [fill(word) for word in case.args]
        env = {"PATH": os.environ["PATH"], "HOME": self.dir}
        env.update({key: fill(value) for key, value in case.env.items()})
        self.log = os.path.join(self.dir, "log")
        out = open(self.log, "wb")
        self.process = subprocess.Popen(argv, env=env, cwd=self.dir, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
                                        preexec_fn=case.before)
        out.close()

    def healthy(self):
        """Whether /health answers 200 on the client port, or where the case moved HTTP to."""
        for port, host in [(self.ports[at], host) for at in (0, 3) for host in ("127.0.0.1", "::1")]:
            try:
                connection = http.client.HTTPConnection(host, port, timeout=1)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return True
            except (OSError, http.client.HTTPException):
                pass
        return False

    def outcome(self):
        """`serves`, or the status it exited with."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            status = self.process.poll()
            if status is not None:
                return f"exit {status}"
            if self.healthy():
                time.sleep(0.1)
                status = self.process.poll()
                return "serves" if status is None else f"exit {status}"
            time.sleep(0.05)
        return "neither serves nor ends"

    def after(self, number):
        """What a signal does to the server."""
        self.process.send_signal(number)
        try:
            return f"ends {self.process.wait(2 if number in cases.IGNORED else END_SECONDS)}"
        except subprocess.TimeoutExpired:
            return "goes on" if self.healthy() else "hangs"

    def configuration(self):
        """The fields of the line that tells the configuration."""
        with open(self.log, "rb") as log:
            for line in log:
                try:
                    line = json.loads(line)
                except ValueError:
                    continue
                if isinstance(line, dict) and line.get("msg") == "starting an etcd server":
                    return {field: line.get(field) for field in FIELDS}
        return None

    def tail(self):
        with open(self.log, "rb") as log:
            lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Keys:
    """Puts and gets by the etcdctl that lies beside etcd."""

    def __init__(self, etcd, port):
        self.command = [os.path.join(os.path.dirname(etcd), "etcdctl"), f"--endpoints=127.0.0.1:{port}"]

    def run(self, *words):
        try:
            done = subprocess.run([*self.command, *words], capture_output=True, text=True, timeout=20)
            return done.stdout.strip()
        except subprocess.TimeoutExpired:
            return "no answer"

    def put(self, key):
        return self.run("put", key, f"value of {key}")

    def get(self, key):
        return self.run("get", "--print-value-only", key)


def live_before(case, binary, etcd, other, ports, folder):
    """What has happened on a folder before the case: the server lived there, and then another one was started on it."""
    own, between = Keys(etcd, ports[0]), {"etcd": etcd, "server": other}[case.between]
    for program, key in ((binary, "first"), (between, "between")):
        run = Run(program, case, ports, folder)
        try:
            if run.outcome() == "serves":
                own.put(key)
                run.after(signal.SIGTERM)
        finally:
            run.end()


def play(binary, case, ports, tag, etcd, other):
    """All that can be seen of one case on one server."""
    folder = tempfile.mkdtemp(prefix=f"start-{tag}-", dir=FOLDER)
    try:
        if case.folder is not None:
            case.folder(os.path.join(folder, "data"))
        if case.between is not None:
            live_before(case, binary, etcd, other, ports, folder)
        return look_at(binary, case, ports, folder, etcd)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def look_at(binary, case, ports, folder, etcd):
    """One start, in a folder that is ready."""
    run = Run(binary, case, ports, folder)
    try:
        seen = {"outcome": run.outcome()}
        said = run.tail()
        if seen["outcome"] == "serves":
            if case.look is not None:
                seen["look"] = case.look(ports)
            for key in case.keys:
                seen[f"key {key}"] = Keys(etcd, ports[0]).get(key)
            if case.signal is not None:
                seen["signal"] = run.after(case.signal)
            configuration = run.configuration()
            if configuration is not None:
                text = json.dumps(configuration).replace(run.dir, "DIR")
                seen.update(json.loads(text))
        return seen, said
    finally:
        run.end()


def differences(case, left, right):
    """Fields in which the two differ and that no excuse covers."""
    found = []
    # Who does not serve says no more than that.
    fields = set(left) | set(right) if left["outcome"] == right["outcome"] else ["outcome"]
    for field in sorted(fields):
        one, other = left.get(field), right.get(field)
        if one == other or cases.excused(case.name, field, one, other):
            continue
        found.append((field, one, other))
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--etcd", required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--quick", action="store_true", help="every fifth case, and those marked")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    chosen = [case for case in cases.all_cases() if options.only in case.name]
    if options.quick:
        chosen = [case for at, case in enumerate(chosen) if at % 5 == 0 or case.quick]
    if not chosen:
        sys.exit(f"no case has {options.only!r} in its name")
    ports = free_ports(4 * len(chosen))
    binaries = (os.path.abspath(options.etcd), os.path.abspath(options.server))

    def judge(numbered):
        at, case = numbered
        own = ports[4 * at:4 * at + 4]
        etcd, server = binaries
        return case, play(etcd, case, own, "etcd", etcd, server), play(server, case, own, "server", etcd, server)

    wrong = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for case, (left, left_said), (right, right_said) in pool.map(judge, enumerate(chosen)):
            found = differences(case, left, right)
            wrong += bool(found)
            if options.verbose or found:
                print(f"{'DIFFERS' if found else 'same   '} {case.name}: {left['outcome']}")
            for field, one, other in found:
                print(f"    {field}: etcd {one!r}, server {other!r}")
            if found and left["outcome"] != right["outcome"]:
                print(f"    etcd said   {left_said}\n    server said {right_said}")
            sys.stdout.flush()
    print(f"{len(chosen)} cases, {wrong} differ")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
