"""One run of an axis on one side, as the axis sees it."""

from lib import benchmark
from lib.child import Deadline
from lib.load import Load


class Run:
    """A started server, the load tools, and a time by which all must be over."""

    def __init__(self, side, server, programs, is_quick, limit, note, cpus=None):
        self.side, self.server, self.programs, self.is_quick, self.cpus = side, server, programs, is_quick, cpus
        self.deadline = Deadline(limit)
        self.note = note
        self.started = 0

    def pick(self, quick, full):
        return quick if self.is_quick else full

    def seconds(self, quick=3, full=6):
        """How long a load takes, as kevel-bench wants to be told."""
        return f"{self.pick(quick, full)}s"

    def start(self, *arguments, on=None):
        """Starts kevel-bench, on one member of a cluster if told so; to be used as a context."""
        self.note("kevel-bench", arguments)
        self.started += 1
        return Load(self.programs.bench, [str(a) for a in arguments], on or self.server, self.server.folder,
                    self.started, self.cpus)

    def load(self, *arguments, on=None):
        """Runs kevel-bench to its end; returns the phase of interest."""
        with self.start(*arguments, on=on) as load:
            return load.phases(self.deadline)[-1]

    def fill(self, prefix, keys, size, key_size=32):
        """Writes keys, a hundred in a transaction."""
        return self.load("fill", "--key-prefix", prefix, "--key-space", keys, "--key-size", key_size,
                         "--val-size", size, "--batch", 100)

    def benchmark(self, *arguments):
        """Runs etcd's tool to its end; returns its figures."""
        self.note("benchmark", arguments)
        self.started += 1
        return benchmark.run(self.programs.benchmark, [str(a) for a in arguments], self.server, self.server.folder,
                             self.started, self.deadline, self.cpus)
