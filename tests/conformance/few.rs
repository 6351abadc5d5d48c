//! A proxy that may open few files: what a pod with a small `ulimit -n` gives it. Otherwise it is started like any other; it
//! does not outlive the test. Needs `prlimit`, of util-linux, which every Debian has. What it says is in a log of its own,
//! beside the others.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use lacewing_tests::demo::mesh;

use crate::bench::Bench;

/// A proxy with few descriptors. It ends on drop.
pub struct Few(Child);

impl Few {
    pub fn start(bench: &Bench, pod: &str, descriptors: u32) -> Self {
        let log = fs::File::create(bench.solo.dir.join(format!("logs/{pod}-few.log"))).expect("a log");
        let child = Command::new("prlimit")
            .args([&format!("--nofile={descriptors}:{descriptors}"), mesh().to_str().expect("a path"), "run", "proxy"])
            .env_clear()
            .envs(bench.solo.proxy_env(pod))
            .env("PATH", std::env::var_os("PATH").expect("a PATH"))
            .env("LACEWING_EXIT_WITH_PARENT", "1")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("the same log"))
            .stderr(log)
            .spawn()
            .expect("prlimit starts (util-linux)");
        Self(child)
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn assert_alive(&mut self) {
        let state = self.0.try_wait().expect("a state");
        assert!(state.is_none(), "the proxy ended: {state:?}");
    }
}

impl Drop for Few {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
