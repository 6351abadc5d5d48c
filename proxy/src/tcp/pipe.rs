//! Pipes through which the kernel moves bytes from one socket to another without showing them to us (`splice`). There are
//! few, lent to a direction while bytes are in them; who gets none copies. Only Linux has them.

#[cfg(target_os = "linux")]
pub use linux::Pipe;
#[cfg(all(test, target_os = "linux"))]
pub use linux::spare;
#[cfg(not(target_os = "linux"))]
pub use other::Pipe;

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        cell::RefCell,
        io,
        os::fd::OwnedFd,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use rustix::{
        fd::AsFd,
        pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice},
    };

    use crate::config::{PIPE_SIZE, PIPES_MAX, PIPES_SPARE, SPLICE_FROM};

    thread_local! {
        static SPARE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
    }

    /// Pipes that exist, over all threads.
    static EXISTING: AtomicUsize = AtomicUsize::new(0);

    struct Ends {
        rest: OwnedFd,
        into: OwnedFd,
    }

    impl Ends {
        fn new() -> Option<Self> {
            if EXISTING.fetch_add(1, Relaxed) >= PIPES_MAX {
                EXISTING.fetch_sub(1, Relaxed);
                return None;
            }
            // From here on `drop` counts down.
            let made = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map(|(rest, into)| Self { rest, into });
            let Ok(ends) = made else {
                EXISTING.fetch_sub(1, Relaxed);
                return None;
            };
            // Refused where this user's pipes are large enough together; then a small one is worse than copying.
            let _ = fcntl_setpipe_size(&ends.into, PIPE_SIZE);
            fcntl_getpipe_size(&ends.into).is_ok_and(|size| size >= SPLICE_FROM).then_some(ends)
        }
    }

    impl Drop for Ends {
        fn drop(&mut self) {
            EXISTING.fetch_sub(1, Relaxed);
        }
    }

    /// A pipe, and how many bytes are in it.
    pub struct Pipe {
        ends: Option<Ends>,
        held: usize,
    }

    impl Pipe {
        /// One that is empty; `None`: all are in use, or the kernel has none for us.
        pub fn lend() -> Option<Self> {
            let ends = SPARE.with_borrow_mut(Vec::pop).or_else(Ends::new)?;
            Some(Self { ends: Some(ends), held: 0 })
        }

        pub fn is_empty(&self) -> bool {
            self.held == 0
        }

        /// Takes what the socket has, at most what fits; 0: it has ended. Only for a pipe that is empty: a full one would
        /// look like a socket that has nothing.
        pub fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
            debug_assert!(self.is_empty());
            let Some(ends) = &self.ends else { return Ok(0) };
            self.held = splice(from, None, &ends.into, None, PIPE_SIZE, FLAGS)?;
            Ok(self.held)
        }

        /// Gives the socket what it takes.
        pub fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
            let Some(ends) = &self.ends else { return Ok(0) };
            let moved = splice(&ends.rest, None, to, None, self.held, FLAGS)?;
            self.held -= moved;
            Ok(moved)
        }
    }

    #[cfg(test)]
    pub fn spare() -> usize {
        SPARE.with_borrow(Vec::len)
    }

    const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

    impl Drop for Pipe {
        fn drop(&mut self) {
            let ends = self.ends.take().filter(|_| self.held == 0);
            // An error: the thread is at its end.
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < PIPES_SPARE {
                    spare.extend(ends);
                }
            });
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use std::io;

    /// There is none.
    pub enum Pipe {}

    impl Pipe {
        pub fn lend() -> Option<Self> {
            None
        }

        pub fn is_empty(&self) -> bool {
            match *self {}
        }

        pub fn fill<S>(&mut self, _: S) -> io::Result<usize> {
            match *self {}
        }

        pub fn drain<S>(&mut self, _: S) -> io::Result<usize> {
            match *self {}
        }
    }
}
