"""Server processes, each on a data directory of its own: one member alone, or several that are a cluster."""

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
    """A member, which is its whole cluster unless it is told otherwise. Leaving its context kills it. A secured one has
    a port with TLS for the load, by a certificate of its own making, and one without for our questions."""

    def __init__(self, binary, folder, ports, cpus=None, name="m", is_secured=False):
        self.binary, self.folder, self.cpus, self.name, self.is_secured = binary, folder, cpus, name, is_secured
        self.port, self.peer_port = next(ports), next(ports)
        self.secured_port = next(ports) if is_secured else None
        self.founders = [self]
        self.state = "new"
        self.child = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    @property
    def pid(self):
        return self.child.process.pid

    @property
    def pids(self):
        return [self.pid]

    @property
    def endpoint(self):
        return f"https://127.0.0.1:{self.secured_port}" if self.is_secured else self.plain

    @property
    def plain(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def peer(self):
        return f"{'https' if self.is_secured else 'http'}://127.0.0.1:{self.peer_port}"

    def command(self):
        cluster = ",".join(f"{founder.name}={founder.peer}" for founder in self.founders)
        clients = f"{self.endpoint},{self.plain}" if self.is_secured else self.plain
        secured = ["--auto-tls", "--peer-auto-tls"] if self.is_secured else []
        return [self.binary, *secured, "--name", self.name, "--data-dir", os.path.join(self.folder, "data"),
                "--listen-client-urls", clients, "--advertise-client-urls", clients,
                "--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer, "--initial-cluster", cluster,
                "--initial-cluster-state", self.state,
                "--quota-backend-bytes", str(QUOTA), "--log-level", "warn"]

    def start(self, deadline):
        """Starts it; returns the seconds until it has answered a linearizable read."""
        began = time.monotonic()
        self.launch()
        self.wait(deadline)
        return time.monotonic() - began

    def launch(self):
        """Starts it."""
        self.child = Child(self.command(), os.path.join(self.folder, "log"), self.cpus)

    def wait(self, deadline):
        """Returns once it has answered a linearizable read."""
        patience = Deadline(min(START_MAX, deadline.left()))
        while True:
            try:
                etcd.revision(self.port, patience.left())
                return
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


class Cluster:
    """Members that have founded a cluster, all on this machine. Leaving its context kills them."""

    def __init__(self, binary, folder, ports, size, is_secured=False):
        self.folder, self.is_secured = folder, is_secured
        self.members = []
        for number in range(size):
            own = os.path.join(folder, f"m{number}")
            os.makedirs(own, exist_ok=True)
            self.members.append(Server(binary, own, ports, name=f"m{number}", is_secured=is_secured))
        for member in self.members:
            member.founders = self.members

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    @property
    def pids(self):
        return [member.pid for member in self.members]

    @property
    def endpoint(self):
        return ",".join(member.endpoint for member in self.members)

    def follower(self, deadline):
        """A member that does not lead, to be measured as if it were alone: what the others do for it counts too."""
        for member in self.members:
            own, leader = etcd.own_and_leader(member.port, deadline.left())
            if own != leader:
                return Reached(member, self)
        raise Failure("there is no follower")

    def start(self, deadline):
        """Starts them together; returns the seconds until each has answered a linearizable read."""
        began = time.monotonic()
        for member in self.members:
            member.launch()
        for member in self.members:
            member.wait(deadline)
        return time.monotonic() - began

    def check(self):
        """That they still run."""
        for member in self.members:
            member.check()

    def stop(self):
        """Lets them end in order, or ends them."""
        for member in self.members:
            member.stop()

    def kill(self):
        for member in self.members:
            member.kill()


class Reached:
    """A cluster that clients reach through one member."""

    def __init__(self, member, cluster):
        self.endpoint, self.folder, self.pids, self.check = member.endpoint, cluster.folder, cluster.pids, cluster.check
        self.is_secured = cluster.is_secured
