//! A host: a network namespace with a cable to the bridge of its net. Programs run in it by [`Host::command`], the
//! test's own code by [`Host::enter`]; sockets stay where they were made. What breaks its network is in `faults`.
//! When it goes, every process that still runs in it is killed.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, chown},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{
    Bridge, OUTSIDE, Process,
    ring::{self, APP_UID, PROXY_UID, ROOT},
};
use crate::demo::{Answer, get};

/// A connection attempt of the test itself.
const CONNECT: Duration = Duration::from_secs(10);

/// Who runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Only what needs rights: redirected like an app.
    Root,
    /// 1000.
    App,
    /// 2102, which redirection exempts.
    Proxy,
}

/// A machine of its own, as far as the network is concerned.
pub struct Host {
    pub name: String,
    pub v4: IpAddr,
    pub v6: IpAddr,
    /// For files; belongs to the apps' user. Gone with the host.
    pub dir: PathBuf,
    /// Name of the namespace.
    netns: String,
    /// The bridge's end of the cable.
    cable: String,
    pub(super) faults: Mutex<Vec<String>>,
    pub(super) diversions: Mutex<Vec<String>>,
    _bridge: Arc<Bridge>,
}

impl Host {
    pub(super) fn new(bridge: Arc<Bridge>, name: &str, address: u8) -> Self {
        let (v4, v6) = (bridge.v4(address), bridge.v6(address));
        let netns = format!("{}-{name}", bridge.serial);
        let cable = format!("v{}-{address}", bridge.serial);
        let device = bridge.device();
        ring::run("ip", &["netns", "add", &netns], "");
        ring::ip(&format!(
            "link add {cable} type veth peer name eth0 netns {netns}\n\
             link set {cable} addrgenmode none\n\
             link set {cable} master {device}\n\
             link set {cable} up\n"
        ));
        let [outside_v4, outside_v6] = OUTSIDE;
        let inside = format!(
            "link set lo up\n\
             address add {v4}/24 dev eth0\n\
             address add {v6}/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via {}\n\
             route add {outside_v4} dev eth0\n\
             route add default via {}\n\
             route add {outside_v6} dev eth0\n",
            bridge.v4(1),
            bridge.v6(1),
        );
        ring::run("ip", &["-n", &netns, "-batch", "-"], &inside);
        let dir = Path::new(ROOT).join("hosts").join(&netns);
        fs::create_dir_all(&dir).expect("/run is ours");
        if ring::ring().users {
            chown(&dir, Some(APP_UID), Some(APP_UID)).expect("the ring's root may");
        }
        let (faults, diversions) = (Mutex::default(), Mutex::default());
        let (v4, v6, name) = (v4.into(), v6.into(), name.to_owned());
        Self { name, v4, v6, dir, netns, cable, faults, diversions, _bridge: bridge }
    }

    /// Runs a program here as an app's user.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.command_as(User::App, program)
    }

    /// Runs a program here. Where there is only one user, it is root whatever is asked for. It must lie where that user
    /// may read: programs of this repository by [`ring::program`].
    pub fn command_as(&self, user: User, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace().display())).current_dir(&self.dir);
        let uid = match user {
            User::App => APP_UID,
            User::Proxy => PROXY_UID,
            User::Root => 0,
        };
        if uid != 0 && ring::ring().users {
            let uid = uid.to_string();
            command.args(["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups"]);
            command.env("HOME", &self.dir).env("USER", "app");
        }
        command.arg(program);
        command
    }

    /// Starts a daemon, which is killed when the answer is dropped; what it says is kept, and said if the test fails.
    pub fn start(&self, name: &str, command: Command) -> Process {
        Process::start(name, self.dir.join(format!("{name}.log")), command)
    }

    /// Runs `work` on a thread in this host's network and waits for it. A runtime that it makes stays in this host, too.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = self.namespace();
        let outcome = std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into(&namespace);
                work()
            });
            inside.join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The same without waiting.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let namespace = self.namespace();
        std::thread::spawn(move || {
            move_into(&namespace);
            work()
        })
    }

    /// Listens on all addresses, IPv4 and IPv6.
    pub fn listen(&self, port: u16) -> TcpListener {
        self.listen_on(SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port))
    }

    pub fn listen_on(&self, address: SocketAddr) -> TcpListener {
        self.enter(|| TcpListener::bind(address))
            .unwrap_or_else(|e| panic!("{} cannot listen on {address}: {e}", self.name))
    }

    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.enter(|| TcpStream::connect_timeout(&to, CONNECT))
    }

    /// One HTTP/1.1 request from here, on a connection of its own; see [`crate::demo::get`].
    pub fn get(&self, to: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Answer {
        self.enter(|| get(to, path, fields))
    }

    /// Runs an nft script here.
    #[track_caller]
    pub fn nft(&self, script: &str) {
        let net = format!("--net={}", self.namespace().display());
        ring::run("nsenter", &[&net, "nft", "-f", "-"], script);
    }

    /// One more address, such as `203.0.113.7` or `2001:db8::7` to be somebody outside of the cluster.
    pub fn add_address(&self, ip: IpAddr) {
        let of_its_own = if ip.is_ipv4() { "/32 dev eth0" } else { "/128 dev eth0 nodad" };
        ring::run("ip", &["-n", &self.netns, "-batch", "-"], &format!("address add {ip}{of_its_own}\n"));
    }

    /// An address with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4, port)
    }

    pub fn at_v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v6, port)
    }

    /// The namespace, as `nsenter --net=` wants it.
    pub fn namespace(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.netns)
    }

    /// Every process that runs here. The test itself is never among them.
    pub fn processes(&self) -> Vec<Pid> {
        let Ok(here) = fs::metadata(self.namespace()) else { return Vec::new() };
        let listed = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
        pids.filter(|pid| {
            let theirs = fs::metadata(format!("/proc/{}/ns/net", pid.as_raw_nonzero()));
            theirs.is_ok_and(|theirs| theirs.ino() == here.ino()) && *pid != rustix::process::getpid()
        })
        .collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = kill_process(pid, Signal::KILL);
        }
        ring::try_ip(&format!("link delete {}\nnetns delete {}\n", self.cable, self.netns));
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn move_into(namespace: &Path) {
    let file = File::open(namespace).expect("the host's namespace");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("the ring's root may enter");
}
