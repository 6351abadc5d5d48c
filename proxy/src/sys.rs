//! The one place for system calls that Rust has no safe words for. Small, audited, and the only `unsafe` of the proxy.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::config::{CONNECTIONS_MAX, FILES_RESERVED, TRIM_AFTER};

/// Raises this process's limit of open files as far as it may, and says what it is then; `None`: the kernel does not say.
pub fn raise_open_files() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only read or write the one structure, which lives until they return.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return None;
        }
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) == 0 {
            limit = raised;
        }
    }
    Some(limit.rlim_cur)
}

/// Connections that may be accepted at a time, over all ports: each needs a descriptor of its own and one for where it
/// goes, and what is reserved stays free.
pub fn connections_max(open_files: Option<u64>) -> usize {
    let room = open_files.unwrap_or(u64::MAX).saturating_sub(FILES_RESERVED) / 2;
    usize::try_from(room).unwrap_or(usize::MAX).clamp(1, CONNECTIONS_MAX)
}

/// Gives memory that was freed back to the system: glibc keeps the high-water mark of a burst otherwise.
pub fn trim_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes no pointers, may be called at any time from any thread, and only returns free pages.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A connection has given its buffers back: now and then that is worth a [`trim_memory`].
pub fn gave_back() {
    static CONNECTIONS: AtomicUsize = AtomicUsize::new(1);
    if CONNECTIONS.fetch_add(1, Relaxed).is_multiple_of(TRIM_AFTER) {
        trim_memory();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_connections_as_there_are_descriptors_for() {
        for (open_files, connections) in [
            (Some(0), 1),
            (Some(128), 1),
            (Some(130), 1),
            (Some(256), 64),
            (Some(1_024), 448),
            (Some(20_128), CONNECTIONS_MAX),
            (Some(u64::MAX), CONNECTIONS_MAX),
            (None, CONNECTIONS_MAX),
        ] {
            assert_eq!(connections_max(open_files), connections, "{open_files:?}");
        }
    }

    #[test]
    fn the_kernel_says_how_many_files() {
        let first = raise_open_files().unwrap();
        assert!(first >= 64);
        assert_eq!(raise_open_files(), Some(first));
    }
}
