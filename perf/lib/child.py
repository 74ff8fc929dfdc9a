"""Programs that we start: none outlives its time, and none outlives us."""

import os
import signal
import subprocess
import time

LAST_WORDS = 400


class Failure(Exception):
    """A run that came to nothing, and why."""


class Deadline:
    """When a run must be over."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.end = time.monotonic() + seconds

    def left(self):
        """Seconds until then."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise Failure(f"not done within {self.seconds:.0f} s")
        return left


class Child:
    """A program that runs, on `cpus` if given; what it says goes to the file `words`. Leaving its context kills it."""

    def __init__(self, command, words, cpus=None):
        self.name, self.words = os.path.basename(command[0]), words
        bind = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
        with open(words, "wb") as out:
            # A session of its own: Ctrl-C is for us, and we end our children one by one.
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                            start_new_session=True, preexec_fn=bind)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def wait(self, deadline):
        """Its exit status."""
        try:
            return self.process.wait(deadline.left())
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"{self.name} hung and was killed when {deadline.seconds:.0f} s were over: "
                          f"{self.last_words()}") from None

    def interrupt(self):
        """Asks it to end early, as Ctrl-C does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def last_words(self):
        with open(self.words, errors="replace") as file:
            return " ".join(file.read()[-LAST_WORDS:].split())
