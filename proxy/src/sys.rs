//! The one place for system calls that Rust has no safe words for. Small, audited, and the only `unsafe` of the proxy.
#![allow(unsafe_code)]

/// Gives memory that was freed back to the system: glibc keeps the high-water mark of a burst otherwise.
pub fn trim_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes no pointers, may be called at any time from any thread, and only returns free pages.
    unsafe {
        libc::malloc_trim(0);
    }
}
