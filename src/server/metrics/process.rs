//! What the kernel says of the process, as Prometheus' Go client exports it.
#![forbid(unsafe_code)]

use std::fs;

use super::text::{Families, Type};

/// Linux counts CPU time in hundredths of a second whatever the kernel's own tick.
const TICKS_PER_SECOND: f64 = 100.0;

/// The families of the process. What cannot be read is left out.
pub(super) fn write(families: &mut Families) {
    let mut gauge = |name, help, value: Option<f64>| {
        if let Some(value) = value {
            families.number(name, Type::Gauge, help, &[], value);
        }
    };
    let (used, limit) = (open_files(), file_limit());
    gauge("os_fd_used", "Open file descriptors.", used);
    gauge("os_fd_limit", "Most file descriptors this process may have.", limit);
    gauge("process_open_fds", "Open file descriptors.", used);
    gauge("process_max_fds", "Most file descriptors this process may have.", limit);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok().map(|kilobytes| kilobytes * 1024.0)
    };
    gauge("process_resident_memory_bytes", "Resident memory.", kilobytes("VmRSS:"));
    gauge("process_virtual_memory_bytes", "Virtual memory.", kilobytes("VmSize:"));
    gauge("process_virtual_memory_max_bytes", "Most virtual memory.", limit_of("Max address space"));
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat_fields(&stat);
    let field = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    let started = boot.zip(field(START_TIME)).map(|(boot, ticks)| boot + ticks / TICKS_PER_SECOND);
    gauge("process_start_time_seconds", "Unix time of the start.", started);
    let long_turns = crate::server::io::watchdog::long_turns();
    let help = "Turns of tasks that kept a core from other clients for 10 ms of CPU time.";
    families.number("kevel_long_turns_total", Type::Counter, help, &[], long_turns as f64);
    let netstat = fs::read_to_string("/proc/self/net/netstat").unwrap_or_default();
    for (name, help, field) in [
        ("process_network_receive_bytes_total", "Bytes received by the network namespace.", "InOctets"),
        ("process_network_transmit_bytes_total", "Bytes sent by the network namespace.", "OutOctets"),
    ] {
        if let Some(bytes) = ip_extension(&netstat, field) {
            families.number(name, Type::Counter, help, &[], bytes);
        }
    }
    if let Some((user, system)) = field(USER_TIME).zip(field(SYSTEM_TIME)) {
        let name = "process_cpu_seconds_total";
        let seconds = (user + system) / TICKS_PER_SECOND;
        families.number(name, Type::Counter, "CPU time, of user and system.", &[], seconds);
    }
}

// Positions in /proc/self/stat behind the command's name.
const USER_TIME: usize = 11;
const SYSTEM_TIME: usize = 12;
const START_TIME: usize = 19;

/// The fields behind the command's name, which stands in parentheses and may hold anything.
fn stat_fields(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default()
}

/// Since Linux 6.2 the directory's size is its count; older kernels say 0, and entries are counted.
fn open_files() -> Option<f64> {
    match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64),
        count => Some(count as f64),
    }
}

/// The soft limit on open files.
fn file_limit() -> Option<f64> {
    limit_of("Max open files")
}

/// A field of the kernel's counts of IP packets: a line of names, then one of numbers.
fn ip_extension(netstat: &str, field: &str) -> Option<f64> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("IpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|name| name == field)?;
    numbers.split_whitespace().nth(at)?.parse().ok()
}

fn limit_of(name: &str) -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX as f64),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_shifts_nothing() {
        let fields = stat_fields("12 (a) b (c) S 1 2 3");
        assert_eq!(fields, ["S", "1", "2", "3"]);
        assert!(stat_fields("").is_empty());
    }

    #[test]
    fn octets_are_found_by_name() {
        let text = "TcpExt: A B\nTcpExt: 1 2\nIpExt: X InOctets OutOctets\nIpExt: 3 4 5\n";
        assert_eq!((ip_extension(text, "InOctets"), ip_extension(text, "OutOctets")), (Some(4.0), Some(5.0)));
        assert_eq!((ip_extension(text, "None"), ip_extension("", "InOctets")), (None, None));
    }

    #[test]
    fn this_process_is_described() {
        let mut families = Families::default();
        write(&mut families);
        let text = families.finish();
        for name in [
            "os_fd_used ",
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_start_time_seconds ",
        ] {
            assert!(text.contains(&format!("\n{name}")), "{name}\n{text}");
        }
        assert!(open_files().unwrap() >= 3.0 && file_limit().unwrap() >= 64.0);
    }
}
