"""What a process does, by linux-perf's cpu-clock: shares of its CPU time by what the time is spent on."""

import collections
import os
import re
import subprocess
import time

HERTZ = 3999

# The kernel's time, by the innermost of these that is on the stack.
KERNEL = (
    ("kernel: page faults", r"exc_page_fault|handle_mm_fault"),
    ("kernel: sending, and waking who receives", r"tcp_sendmsg|__sys_sendto|sock_sendmsg"),
    ("kernel: receiving", r"tcp_recvmsg|__sys_recvfrom|sock_recvmsg"),
    ("kernel: syncing the log", r"fdatasync|fsync|ext4_sync"),
    ("kernel: writing files", r"ext4_|generic_perform_write|vfs_write|sync_file_range|writeback"),
    ("kernel: waking other threads", r"eventfd_write|futex_wake|membarrier"),
    ("kernel: io_uring", r"io_uring|io_cqring|io_submit|io_issue|io_poll|io_req|io_wq"),
    ("kernel: clocks and timers", r"timerfd|hrtimer|clock_gettime"),
)
# The process's own, by the first that the function's name fits.
USER = (
    ("TLS: records sealed and opened", r"\brustls|aws_lc|ring_core|kevel::server::tls"),
    ("HTTP/2: frames, streams, flow control", r"kevel::server::http2::(?!hpack)|\bh2::"),
    ("HTTP/2: header fields", r"http2::hpack|hpack|http::header|\bhttp::"),
    ("gRPC: calls, messages, answers", r"kevel::server::(grpc|call)"),
    ("handlers: requests decoded, answers built", r"kevel::server::api|kevel::(request|response|nested|wire|proto)|prost"),
    ("session: tickets, lanes, turns", r"kevel::server::(session|core|mesh|io::turns)|kevel::session|crossbeam"),
    ("sockets, clocks, tasks", r"kevel::server|glommio|async_task|futures|io_uring|uring|__vdso|timerfd|syscall"),
    ("tree: descent, cursors, pages", r"kevel::btree|kevel::page"),
    ("MVCC: keys, revisions, values", r"kevel::mvcc"),
    ("watch: finding watchers, encoding events", r"kevel::watch"),
    ("leases", r"kevel::lease"),
    ("raft and applying", r"kevel::(replica|cluster)|\braft\b|raft::|raft_proto"),
    ("log: records and their checksums", r"kevel::wal|crc32c"),
    ("allocator", r"\bmi_|_mi_|malloc|\bfree\b|alloc::(alloc|raw_vec)"),
    ("copying bytes", r"memmove|memcpy|bytes::"),
    ("comparing bytes", r"memcmp|bcmp"),
)
COMPILED = {table: tuple((cost, re.compile(pattern)) for cost, pattern in table) for table in (KERNEL, USER)}


def take(pid, after, seconds, folder):
    """Samples the process for `seconds`; returns the share of each cost, all of them together 1."""
    data = os.path.join(folder, "perf.data")
    time.sleep(after)
    subprocess.run(["perf", "record", "--event", "cpu-clock", "--freq", str(HERTZ), "-g", "--pid", str(pid),
                    "--output", data, "--", "sleep", str(seconds)], check=True, capture_output=True)
    script = subprocess.run(["perf", "script", "--input", data, "--fields", "ip,sym,dso"], check=True, capture_output=True,
                            text=True, errors="replace").stdout
    return shares(script)


def shares(script):
    """Shares in what `perf script --fields ip,sym,dso` prints: stacks, innermost function first, parted by empty lines."""
    counts = collections.Counter(cost(stack.strip().splitlines()) for stack in script.split("\n\n") if stack.strip())
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()}


def cost(stack):
    """What a sample's time was spent on."""
    is_kernel = "[kernel" in stack[0]
    for frame in [frame for frame in stack if "[kernel" in frame] if is_kernel else stack[:1]:
        for name, pattern in COMPILED[KERNEL if is_kernel else USER]:
            if pattern.search(frame):
                return name
    return "kernel: the rest" if is_kernel else "other functions"
