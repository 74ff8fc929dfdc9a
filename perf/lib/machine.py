"""The machine that figures were taken on."""

import os
import platform
import re
import subprocess

from lib.programs import ROOT


def describe(folder):
    """Names and values, for a results file; `folder` is where the data lies."""
    with open("/proc/cpuinfo") as file:
        model = re.search(r"model name\s*: (.*)", file.read())
    with open("/proc/meminfo") as file:
        memory = int(re.search(r"MemTotal:\s+(\d+)", file.read())[1]) / (1 << 20)
    return {
        "CPU": f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{memory:.1f} GiB",
        "filesystem": filesystem(folder),
        "kernel": platform.release(),
        "commit": commit(),
    }


def filesystem(folder):
    """Type of the file system."""
    command = ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", folder]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def commit():
    """The commit of this repository, and whether something differs from it."""
    git = lambda *arguments: subprocess.run(["git", "-C", ROOT, *arguments], check=True, capture_output=True, text=True,
                                            timeout=10).stdout.strip()
    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + (" and changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
