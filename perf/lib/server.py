"""One server process on a data directory of its own."""

import os
import signal
import subprocess
import time

from lib import etcd
from lib.child import Child, Deadline, Failure
from lib.wire import Refused

START_MAX = 60
STOP_MAX = 30
QUOTA = 16 << 30
RETRY_AFTER = 0.002


class Server:
    """A member that is its whole cluster. Leaving its context kills it."""

    def __init__(self, binary, folder, ports, cpus=None):
        self.binary, self.folder, self.cpus = binary, folder, cpus
        self.port, self.peer = next(ports), next(ports)
        self.child = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    @property
    def pid(self):
        return self.child.process.pid

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def command(self):
        peer = f"http://127.0.0.1:{self.peer}"
        return [self.binary, "--name", "m", "--data-dir", os.path.join(self.folder, "data"),
                "--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"m={peer}",
                "--quota-backend-bytes", str(QUOTA), "--log-level", "warn"]

    def start(self, deadline):
        """Starts it; returns the seconds until it has answered a linearizable read."""
        began = time.monotonic()
        patience = Deadline(min(START_MAX, deadline.left()))
        self.child = Child(self.command(), os.path.join(self.folder, "log"), self.cpus)
        while True:
            try:
                etcd.revision(self.port, patience.left())
                return time.monotonic() - began
            except (OSError, Refused):
                self.check()
                time.sleep(RETRY_AFTER)

    def check(self):
        """That it still runs."""
        status = self.child.process.poll()
        if status is not None:
            raise Failure(f"the server ended with {status}: {self.child.last_words()}")

    def stop(self):
        """Lets it end in order, or ends it."""
        self.child.process.send_signal(signal.SIGTERM)
        try:
            self.child.process.wait(STOP_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"the server did not stop within {STOP_MAX} s") from None

    def kill(self):
        if self.child:
            self.child.kill()
