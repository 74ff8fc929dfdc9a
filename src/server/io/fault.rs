//! What the process says when it ends because a mapped page cannot be read.
//!
//! The store file and, while a member starts, its log are mapped. When the disk fails under a mapping, or somebody cuts
//! the file short, the kernel sends SIGBUS to whoever reads there. Nothing can be answered from such a page, so the
//! process ends, but it says why.
//!
//! Unsafe: a signal handler, which calls nothing but write.
#![allow(unsafe_code)]

const WORDS: &[u8] = b"{\"level\":\"fatal\",\"caller\":\"server/io/fault.rs\",\"msg\":\"a page of the store or of \
the log could not be read: the disk has failed, or a file was cut short while in use; check the disk and the kernel's \
log; if the file is damaged and this member is alone, put back a copy of the data directory; in a cluster, have the \
others rebuild it: run kevel rebuild --data-dir DIR --endpoints URLS (client URLs of other members), and start the \
member again\"}\n";

/// Sees to it that the process says why when it ends for an unreadable page.
pub fn explain() {
    // SAFETY: the handler is async-signal-safe (it calls write alone), the struct lives during the call, and all zero
    // is a valid value of it. SA_RESETHAND puts the default back before the handler runs: the access that faulted is
    // tried again when it returns, and ends the process.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = say as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESETHAND;
        // A refusal leaves the default, which ends the process without a word.
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

extern "C" fn say(_signal: libc::c_int) {
    // SAFETY: pointer and length are those of a constant.
    unsafe { libc::write(libc::STDERR_FILENO, WORDS.as_ptr().cast(), WORDS.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use crate::server::io::log_map::LogMap;

    /// Set in the process that reads behind the end of a file.
    const FAULTS: &str = "KEVEL_TEST_FAULT";

    #[test]
    fn a_process_says_why_it_ends_for_a_page_that_cannot_be_read() {
        if std::env::var_os(FAULTS).is_some() {
            return read_what_was_cut_off();
        }
        let name = "server::io::fault::tests::a_process_says_why_it_ends_for_a_page_that_cannot_be_read";
        let mut child = Command::new(std::env::current_exe().unwrap());
        let ended = child.args([name, "--exact", "--nocapture"]).env(FAULTS, "1").output().unwrap();
        assert_eq!(ended.status.signal(), Some(libc::SIGBUS), "{ended:?}");
        assert!(ended.stderr.windows(WORDS.len()).any(|said| said == WORDS), "{ended:?}");
    }

    fn read_what_was_cut_off() {
        explain();
        let path = std::env::temp_dir().join(format!("kevel-fault-{}", std::process::id()));
        std::fs::write(&path, [7; 4096]).unwrap();
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let map = LogMap::new(&file).unwrap();
        file.set_len(0).unwrap();
        println!("this byte is not there: {}", map[0]);
    }
}
