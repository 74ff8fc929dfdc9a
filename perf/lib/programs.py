"""The programs that take part: those given, the others built."""

import os
import re
import subprocess
from dataclasses import dataclass

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@dataclass(frozen=True)
class Programs:
    """Paths. `etcd` is what is compared with, and may be another Kevel."""
    etcd: str
    kevel: str
    bench: str
    benchmark: str


def find(etcd=None, kevel=None, bench=None, benchmark=None):
    """Builds what is not given."""
    if not etcd or not benchmark:
        judges = build([os.path.join(ROOT, "tests/compat/build.sh"), "etcd", "tools"]).split()[-1]
        etcd = etcd or os.path.join(judges, "etcd")
        benchmark = benchmark or os.path.join(judges, "benchmark")
    if not kevel or not bench:
        build(["cargo", "build", "--release", "--bins"])
        release = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release")
        kevel = kevel or os.path.join(release, "kevel")
        bench = bench or os.path.join(release, "kevel-bench")
    return Programs(*(os.path.abspath(path) for path in (etcd, kevel, bench, benchmark)))


def build(command):
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def version(server):
    """Name and version of a server's binary."""
    text = subprocess.run([server, "--version"], check=True, capture_output=True, text=True, timeout=10).stdout
    for name in ("Kevel", "etcd"):
        found = re.search(rf"{name} Version: (\S+)", text)
        if found:
            return f"{name} {found[1]}"
    raise ValueError(f"{server} --version names no version")
