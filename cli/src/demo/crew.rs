//! Owns the demo's processes: starts them, restarts those that die, kills and brings back those that a fault asks for.
//!
//! One pass, [`Crew::tick`], does all of it every [`POLL`](crate::demo::faults::POLL): there is no task and no state
//! but this. It never waits; what it has to say it returns.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    demo::{
        cast::{Pod, WORKLOADS},
        faults::{self, CONTROLLER, Fault},
        manifests,
        state::Layout,
    },
    failure::Failure,
};

/// A process that died is started again after this.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// A process is started again this often; then something is wrong that a restart does not mend.
const RESTARTS_MAX: u32 = 5;
/// A killed pod's endpoint is taken out after this: about what a kubelet and the endpoint controller need.
const UNREADY_AFTER: Duration = Duration::from_secs(1);
/// Longest log of a process, in bytes; then it starts afresh.
const LOG_MAX: u64 = 4 * 1024 * 1024;
/// Lines of a dead process' log that are shown, and the most bytes that they are looked for in.
const TAIL_LINES: usize = 3;
const TAIL_BYTES: u64 = 4 * 1024;

/// How to start a process.
#[derive(Clone, Debug)]
pub struct Spec {
    /// For people and for the log's name: `web-1-proxy`.
    pub name: String,
    /// The pod it belongs to; `None`: the controller.
    pub pod: Option<String>,
    /// Arguments after `mesh run`.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(&'static str, String)>,
}

struct Member {
    spec: Spec,
    log: PathBuf,
    child: Option<Child>,
    died: Option<Instant>,
    restarts: u32,
    /// Not while its pod, or the controller, is killed.
    wanted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Running,
    Killed {
        at: Instant,
        unready: bool,
    },
    /// Healed: not in the balancing until it is ready.
    Returning,
}

/// All processes of the demo.
pub struct Crew {
    exe: PathBuf,
    layout: Layout,
    members: Vec<Member>,
    pods: Vec<(Pod, Condition)>,
    controller_killed: bool,
    /// Workloads whose endpoints on disk are behind, and whether the user was told why.
    unpublished: BTreeMap<String, bool>,
}

impl Crew {
    pub fn new(exe: PathBuf, layout: Layout, pods: Vec<Pod>) -> Self {
        let pods = pods.into_iter().map(|pod| (pod, Condition::Running)).collect();
        let (members, unpublished) = (Vec::new(), BTreeMap::new());
        Self { exe, layout, members, pods, controller_killed: false, unpublished }
    }

    /// Starts a process and keeps it running.
    pub fn start(&mut self, spec: Spec) -> Result<(), Failure> {
        let log = self.layout.log(&spec.name);
        let child = spawn(&self.exe, &spec, &log).map_err(|error| Failure::file("start", &self.exe, &error))?;
        self.members.push(Member { spec, log, child: Some(child), died: None, restarts: 0, wanted: true });
        Ok(())
    }

    /// Pods that were brought back and are not balanced to yet.
    pub fn returning(&self) -> Vec<Pod> {
        self.pods.iter().filter(|(_, c)| *c == Condition::Returning).map(|(pod, _)| pod.clone()).collect()
    }

    /// A pod that was brought back answers: requests may go there again. What to tell the user.
    pub fn returned(&mut self, name: &str) -> Option<String> {
        let (pod, condition) = self.pods.iter_mut().find(|(pod, _)| pod.name == name)?;
        *condition = Condition::Running;
        self.unpublished.insert(pod.workload.clone(), false);
        let failed = self.publish();
        Some(if failed.is_empty() { format!("{name} is back and ready") } else { failed.join("\n") })
    }

    /// The last words of a process.
    pub fn last_words(&self, process: &str) -> String {
        tail(&self.layout.log(process))
    }

    /// Does what is due. What to tell the user, one line each.
    pub fn tick(&mut self, now: Instant) -> Vec<String> {
        let mut news = Vec::new();
        for member in &mut self.members {
            news.extend(member.reap(now));
            news.extend(member.restart_if_due(&self.exe, now));
            cap(&member.log);
        }
        news.extend(self.follow_controller());
        for at in 0..self.pods.len() {
            let (pod, condition) = self.pods[at].clone();
            let killed = self.is_killed(&pod.name);
            match condition {
                Condition::Running | Condition::Returning if killed => {
                    self.kill(Some(&pod.name));
                    self.pods[at].1 = Condition::Killed { at: now, unready: false };
                    news.push(format!("{0} killed; `mesh demo heal {0}` brings it back", pod.name));
                }
                Condition::Killed { .. } if !killed => {
                    news.extend(self.bring_back(Some(&pod.name)));
                    self.pods[at].1 = Condition::Returning;
                    // Healed within a moment, it has not been taken out yet.
                    self.unpublished.insert(pod.workload, false);
                }
                Condition::Killed { at: since, unready: false } if now.duration_since(since) >= UNREADY_AFTER => {
                    self.pods[at].1 = Condition::Killed { at: since, unready: true };
                    self.unpublished.insert(pod.workload, false);
                }
                _ => {}
            }
        }
        news.extend(self.publish());
        news
    }

    /// Kills all processes and waits for their ends.
    pub fn stop(&mut self) {
        for child in self.members.iter_mut().filter_map(|member| member.child.as_mut()) {
            // Already ended is as good.
            let _ = child.kill();
        }
        for mut child in self.members.iter_mut().filter_map(|member| member.child.take()) {
            let _ = child.wait();
        }
    }

    fn is_killed(&self, name: &str) -> bool {
        faults::read(&faults::path(&self.layout.faults(), name)) == Some(Fault::Kill)
    }

    /// Kills the controller, or brings it back, as its switch says.
    fn follow_controller(&mut self) -> Vec<String> {
        let killed = self.is_killed(CONTROLLER);
        if killed == self.controller_killed {
            return Vec::new();
        }
        self.controller_killed = killed;
        if killed {
            self.kill(None);
            return vec![format!(
                "{CONTROLLER} killed; the proxies go on with what they know; `mesh demo heal {CONTROLLER}` brings it back"
            )];
        }
        let failed = self.bring_back(None);
        if failed.is_empty() { vec![format!("{CONTROLLER} started again")] } else { failed }
    }

    /// The processes of `pod`; of no pod is the controller.
    fn members_of<'a>(&'a mut self, pod: Option<&'a str>) -> impl Iterator<Item = &'a mut Member> {
        self.members.iter_mut().filter(move |member| member.spec.pod.as_deref() == pod)
    }

    fn kill(&mut self, pod: Option<&str>) {
        for member in self.members_of(pod) {
            member.wanted = false;
            if let Some(mut child) = member.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    fn bring_back(&mut self, pod: Option<&str>) -> Vec<String> {
        let exe = self.exe.clone();
        let mut news = Vec::new();
        for member in self.members_of(pod) {
            (member.wanted, member.died, member.restarts) = (true, None, 0);
            match spawn(&exe, &member.spec, &member.log) {
                Ok(child) => member.child = Some(child),
                Err(error) => {
                    member.died = Some(Instant::now());
                    news.push(format!("{} could not be started: {error}", member.spec.name));
                }
            }
        }
        news
    }

    /// Writes the EndpointSlices that are behind. One that cannot be written is tried again, and told about once.
    fn publish(&mut self) -> Vec<String> {
        let mut news = Vec::new();
        for (name, told) in std::mem::take(&mut self.unpublished) {
            if let Err(why) = self.write_slice(&name) {
                news.extend((!told).then_some(why));
                self.unpublished.insert(name, true);
            }
        }
        news
    }

    /// Writes the EndpointSlice of the workload of that name as things are now.
    fn write_slice(&self, workload: &str) -> Result<(), String> {
        let Some(workload) = WORKLOADS.iter().find(|known| known.name() == workload) else { return Ok(()) };
        let away = |condition: &Condition| match condition {
            Condition::Running => false,
            Condition::Returning => true,
            Condition::Killed { unready, .. } => *unready,
        };
        let unready: BTreeSet<String> =
            self.pods.iter().filter(|(_, c)| away(c)).map(|(pod, _)| pod.name.clone()).collect();
        let pods: Vec<Pod> = self.pods.iter().map(|(pod, _)| pod.clone()).collect();
        manifests::write_slice(&self.layout.manifests(), workload, &pods, &unready)
            .map_err(|error| format!("cannot write the endpoints of {}: {error}", workload.name()))
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Member {
    /// Notices that the process died, and says so with its last words.
    fn reap(&mut self, now: Instant) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        self.died = Some(now);
        let next = if self.restarts < RESTARTS_MAX {
            "restarting".to_owned()
        } else {
            format!("not restarted any more: it died {} times", self.restarts + 1)
        };
        Some(format!("{} died ({status}), {next}; it said last: {}", self.spec.name, tail(&self.log)))
    }

    fn restart_if_due(&mut self, exe: &Path, now: Instant) -> Option<String> {
        let due = self.died.is_some_and(|died| now.duration_since(died) >= RESTART_AFTER);
        if !due || !self.wanted || self.restarts >= RESTARTS_MAX {
            return None;
        }
        self.restarts += 1;
        match spawn(exe, &self.spec, &self.log) {
            Ok(child) => {
                (self.child, self.died) = (Some(child), None);
                None
            }
            Err(error) => {
                self.died = Some(now);
                Some(format!("{} could not be started: {error}", self.spec.name))
            }
        }
    }
}

fn spawn(exe: &Path, spec: &Spec, log: &Path) -> io::Result<Child> {
    // Appending, so that a log cut by `cap` goes on at its new end.
    let out = OpenOptions::new().create(true).append(true).open(log)?;
    Command::new(exe)
        .arg("run")
        .args(&spec.args)
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        // Held open by this process only: children end with us, however we end.
        .stdin(Stdio::piped())
        .stdout(out.try_clone()?)
        .stderr(out)
        // Ctrl-C is for the demo, which ends its children itself.
        .process_group(0)
        .spawn()
}

fn cap(log: &Path) {
    if fs::metadata(log).is_ok_and(|found| found.len() > LOG_MAX) {
        // A log that cannot be cut is still a log.
        let _ = OpenOptions::new().write(true).open(log).and_then(|log| log.set_len(0));
    }
}

/// The last lines of a log, on one line.
fn tail(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(log)?;
        let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    match &lines[lines.len().saturating_sub(TAIL_LINES)..] {
        [] => "nothing".to_owned(),
        last => last.join(" | "),
    }
}

#[cfg(test)]
mod tests;
