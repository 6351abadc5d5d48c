//! Owns the fault switches: one small file a pod, written by `mesh demo fault`, polled by the pod's app and the demo;
//! and one for the controller, which can only be killed.
//!
//! Files need no protocol and no port, and end with the demo's directory. What a fault does is decided by who reads it.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lacewing_ops::settings;

use crate::demo::state::write_atomically;

/// How often the switches are read.
pub const POLL: Duration = Duration::from_millis(100);

/// The name of the controller's switch, and of its process; no pod is called so.
pub const CONTROLLER: &str = "controller";

/// What is wrong with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The app answers this much later.
    Slow(Duration),
    /// The app answers with an error.
    Fail,
    /// App and proxy are gone.
    Kill,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow(by) => write!(f, "slow {}ms", by.as_millis()),
            Self::Fail => f.write_str("fail"),
            Self::Kill => f.write_str("kill"),
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().split_once(' ') {
            Some(("slow", by)) => settings::duration(by).map(Self::Slow),
            None if text.trim() == "fail" => Ok(Self::Fail),
            None if text.trim() == "kill" => Ok(Self::Kill),
            _ => Err(format!("{text:?} is no fault")),
        }
    }
}

/// The switch file of `pod`.
pub fn path(faults: &Path, pod: &str) -> PathBuf {
    faults.join(pod)
}

/// The fault in force: none where there is no file, or none that can be read.
pub fn read(file: &Path) -> Option<Fault> {
    fs::read_to_string(file).ok()?.parse().ok()
}

/// Sets the fault of `pod`, in place of the one it had.
pub fn set(faults: &Path, pod: &str, fault: Fault) -> io::Result<()> {
    write_atomically(&path(faults, pod), &format!("{fault}\n"))
}

/// Ends the fault of `pod`; whether it had one.
pub fn clear(faults: &Path, pod: &str) -> io::Result<bool> {
    match fs::remove_file(path(faults, pod)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// An app's view of its own switch.
#[derive(Clone, Default)]
pub struct Switch(Arc<Mutex<Option<Fault>>>);

/// The app should answer with an error.
#[derive(Debug, PartialEq, Eq)]
pub struct Failing;

impl Switch {
    /// Follows `file` for as long as it is polled.
    pub async fn follow(self, file: PathBuf) {
        let mut every = tokio::time::interval(POLL);
        loop {
            every.tick().await;
            self.turn(read(&file));
        }
    }

    fn turn(&self, fault: Option<Fault>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Shows the fault to one request: waits if slow, and says if it should fail.
    pub async fn pass(&self) -> Result<(), Failing> {
        let fault = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match fault {
            Some(Fault::Slow(by)) => tokio::time::sleep(by).await,
            Some(Fault::Fail) => return Err(Failing),
            Some(Fault::Kill) | None => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::state::tests::Scratch;

    #[test]
    fn faults_read_as_they_are_written() {
        for fault in [Fault::Slow(Duration::from_millis(200)), Fault::Slow(Duration::ZERO), Fault::Fail, Fault::Kill] {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        for bad in ["", "slow", "slow 5", "slow fast", "fail now", "explode"] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }

    #[test]
    fn switches_are_files() {
        let dir = Scratch::new("faults");
        assert_eq!(read(&path(&dir, "web-1")), None);
        set(&dir, "web-1", Fault::Fail).expect("set");
        set(&dir, "web-1", Fault::Kill).expect("set again");
        assert_eq!(read(&path(&dir, "web-1")), Some(Fault::Kill));
        assert!(clear(&dir, "web-1").expect("clear"));
        assert!(!clear(&dir, "web-1").expect("clear again"));
        assert_eq!(fs::read_dir(&*dir).expect("list").count(), 0, "no temporary file is left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_switch_delays_and_a_failing_one_fails() {
        let switch = Switch::default();
        let start = tokio::time::Instant::now();
        assert_eq!(switch.pass().await, Ok(()));
        assert_eq!(start.elapsed(), Duration::ZERO);
        switch.turn(Some(Fault::Slow(Duration::from_millis(200))));
        assert_eq!(switch.pass().await, Ok(()));
        assert!(start.elapsed() >= Duration::from_millis(200));
        switch.turn(Some(Fault::Fail));
        assert_eq!(switch.pass().await, Err(Failing));
    }
}
