//! A process that a test starts, stops, freezes, kills and starts again; its log; and what it holds (memory, open
//! files). If the test fails, its last words are said. Killed when nobody holds it any more; what it started itself goes
//! with its host.

#![allow(clippy::print_stderr, reason = "last words of processes whose test failed")]

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::until;

/// Lines of a log that are said when a test fails.
const LAST_WORDS: usize = 12;

/// A process, and the command that starts it anew. Killed on drop.
pub struct Process {
    pub name: String,
    log: PathBuf,
    command: Mutex<Command>,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// Starts it. Its input is a pipe that stays open as long as it is wanted; its output goes to `log`.
    pub(super) fn start(name: &str, log: PathBuf, mut command: Command) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(&log).expect("a log");
        command.stdin(Stdio::piped()).stdout(file.try_clone().expect("the same log")).stderr(file);
        let process = Self { name: name.to_owned(), log, command: Mutex::new(command), child: Mutex::default() };
        process.start_again();
        process
    }

    /// Starts it after it has ended.
    #[track_caller]
    pub fn start_again(&self) {
        let mut child = self.child.lock().expect("no use of it failed");
        assert!(child.is_none(), "{} runs already", self.name);
        let mut command = self.command.lock().expect("no use of it failed");
        *child = Some(command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.name)));
    }

    /// For another start: a further or another setting.
    pub fn set_env(&self, name: &str, value: &str) {
        self.command.lock().expect("no use of it failed").env(name, value);
    }

    /// Settings that it is started with.
    pub(super) fn envs(&self) -> Vec<(OsString, OsString)> {
        let command = self.command.lock().expect("no use of it failed");
        command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect()
    }

    /// Process id.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.with(Child::id)
    }

    pub fn is_running(&self) -> bool {
        let mut child = self.child.lock().expect("no use of it failed");
        child.as_mut().is_some_and(|child| child.try_wait().expect("a state").is_none())
    }

    /// SIGKILL, and waits for the end.
    #[track_caller]
    pub fn kill(&self) {
        let mut child = self.take();
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }

    /// SIGSTOP: it hangs, its sockets stay.
    #[track_caller]
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    #[track_caller]
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("it is ours and not waited for");
    }

    /// SIGTERM; it must end well within `patience`. How long it took.
    #[track_caller]
    pub fn terminate(&self, patience: Duration) -> Duration {
        self.signal(Signal::TERM);
        let started = Instant::now();
        let status = self.ended(patience);
        assert!(status.success(), "{} ended with {status}:\n{}", self.name, self.log());
        started.elapsed()
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn ended(&self, patience: Duration) -> ExitStatus {
        let mut child = self.take();
        let started = Instant::now();
        while child.try_wait().expect("a state").is_none() {
            if started.elapsed() > patience {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{} did not end within {patience:?}:\n{}", self.name, self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.wait().expect("a status")
    }

    /// Everything it said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it says `words`.
    #[track_caller]
    pub fn until_it_says(&self, words: &str, patience: Duration) {
        until(&format!("{} says {words:?}", self.name), patience, || self.log().contains(words).then_some(()));
    }

    /// Resident memory, in bytes.
    #[track_caller]
    pub fn rss(&self) -> u64 {
        self.memory("Rss:")
    }

    /// Resident memory, in bytes, with what it shares counted in proportion.
    #[track_caller]
    pub fn pss(&self) -> u64 {
        self.memory("Pss:")
    }

    #[track_caller]
    fn memory(&self, field: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("the kernel says it");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    /// Open file descriptors.
    #[track_caller]
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it runs").count()
    }

    #[track_caller]
    fn take(&self) -> Child {
        let child = self.child.lock().expect("no use of it failed").take();
        child.unwrap_or_else(|| panic!("{} does not run", self.name))
    }

    #[track_caller]
    fn with<T>(&self, look: impl FnOnce(&Child) -> T) -> T {
        let child = self.child.lock().expect("no use of it failed");
        look(child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.lines().count().saturating_sub(LAST_WORDS);
            let words: Vec<&str> = log.lines().skip(from).collect();
            eprintln!("--- {}, last words\n{}", self.name, words.join("\n"));
        }
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
