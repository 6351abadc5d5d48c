//! The ring's machine: namespaces of its own for network, mounts and processes, entered before the first test begins to
//! build anything. The test binary starts itself again under `unshare` and is then alone: root, an own `/run`, an own
//! `/etc/hosts`, and when it ends, however it ends, the kernel ends every process and takes every namespace away.
//! Where that is forbidden, each test fails with words about it; none is skipped.

use std::{
    env,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::{fs::FileExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
};

use crate::demo::mesh;

/// Everything that the ring writes is below, on a file system in memory that nobody else sees.
pub const ROOT: &str = "/run/lacewing";
/// Set inside: the network namespace that was left.
const INSIDE: &str = "LACEWING_NETNS_RING";
/// A proxy from elsewhere.
const SHIPPED: &str = "shipped-proxy";
/// What the redirection rules of proxies exempt where there is only one user.
pub const MARK: &str = "0x2102";
/// The proxy's user.
pub const PROXY_UID: u32 = 2102;
/// The apps' user.
pub const APP_UID: u32 = 1000;
/// Runs the binary as a child of process 1, so that signals of the terminal have their usual effect on it.
const WRAPPER: &str = "\"$@\"; exit $?";

/// What the ring's machine offers.
pub struct Ring {
    /// The users 1000 and 2102 exist. Otherwise all are root, and proxies are told by [`MARK`].
    pub users: bool,
}

/// The machine; entered by the first call.
///
/// # Panics
/// It cannot be entered: the message says why and what helps.
pub fn ring() -> &'static Ring {
    static RING: OnceLock<Result<Ring, String>> = OnceLock::new();
    let ring = RING.get_or_init(|| match env::var(INSIDE) {
        Ok(outside) if outside != namespace() => Ok(set_up()),
        _ => Err(start_again()),
    });
    ring.as_ref().unwrap_or_else(|why| panic!("{why}"))
}

/// A program of this repository, at a path that every user may read. Instead of `lacewing-proxy` it is what
/// `LACEWING_TEST_PROXY` names: the one that ships, say.
///
/// # Panics
/// It was not built.
pub fn program(name: &str) -> PathBuf {
    let shipped = Path::new(ROOT).join(SHIPPED);
    if name == "lacewing-proxy" && shipped.exists() {
        return shipped;
    }
    let path = Path::new(ROOT).join("bin").join(name);
    assert!(path.exists(), "{name} is not built: run tests/run netns, or cargo build -p {name}");
    path
}

fn namespace() -> String {
    fs::read_link("/proc/self/ns/net").expect("a network namespace").display().to_string()
}

/// Replaces this process by one inside; returns only if it cannot, with the reason.
fn start_again() -> String {
    let mut refusals = String::new();
    for user in ways() {
        let mut unshare = Command::new("unshare");
        unshare.args(user).args(["-nmpf", "--kill-child", "--mount-proc", "--propagation", "private"]);
        let mut probe = Command::new("unshare");
        match probe.args(unshare.get_args()).arg("true").output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                refusals += &String::from_utf8_lossy(&output.stderr);
                continue;
            }
            Err(error) => return format!("unshare: {error}: install util-linux (tests/run netns does)"),
        }
        unshare.args(["sh", "-c", WRAPPER, "sh"]).arg(env::current_exe().expect("the test knows its own path"));
        return format!("unshare: {}", unshare.args(env::args_os().skip(1)).env(INSIDE, namespace()).exec());
    }
    format!(
        "this ring needs namespaces of its own, and may not make them:\n{refusals}Run it as root; or let users make \
         namespaces: sysctl kernel.unprivileged_userns_clone=1 (Debian), \
         kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), user.max_user_namespaces above 0"
    )
}

/// Options of `unshare` to become root, the best first.
fn ways() -> Vec<&'static [&'static str]> {
    const ROOT_ALREADY: &[&str] = &[];
    const MANY_USERS: &[&str] = &["-U", "--map-root-user", "--map-auto"];
    const ONE_USER: &[&str] = &["-U", "--map-root-user"];
    if rustix::process::geteuid().is_root() {
        return vec![ROOT_ALREADY, ONE_USER];
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let many = env::split_paths(&path).any(|folder| folder.join("newuidmap").exists());
    if many { vec![MANY_USERS, ONE_USER] } else { vec![ONE_USER] }
}

fn set_up() -> Ring {
    run("mount", &["-t", "tmpfs", "-o", "mode=755", "lacewing", "/run"], "");
    let bin = format!("{ROOT}/bin");
    for folder in ["/run/netns", &bin] {
        fs::create_dir_all(folder).expect("/run is ours");
    }
    let mesh = mesh();
    let built = mesh.parent().expect("mesh lies in a folder").display().to_string();
    run("mount", &["--bind", &built, &bin], "");
    if let Some(proxy) = env::var_os("LACEWING_TEST_PROXY") {
        fs::copy(&proxy, Path::new(ROOT).join(SHIPPED)).unwrap_or_else(|e| panic!("LACEWING_TEST_PROXY: {e}"));
    }
    let usual = fs::read_to_string("/etc/hosts").unwrap_or_else(|_| "127.0.0.1 localhost\n".to_owned());
    cover("hosts", &format!("{}\n", usual.trim_end()));
    // There is no name server: asking one must fail at once. Where the file is a link into /run it is gone by now,
    // and its absence means the same.
    if Path::new("/etc/resolv.conf").exists() {
        cover("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
    }
    ip("link set lo up\n");
    assert!(Path::new("/proc/sys/net/ipv6").exists(), "this kernel has no IPv6: half of the ring's tests need it");
    for forwarding in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(Path::new("/proc/sys/net").join(forwarding), "0").expect("the network namespace is ours");
    }
    Ring { users: users() > u64::from(PROXY_UID) }
}

/// Gives a file of `/etc` another text, for the ring only.
fn cover(file: &str, text: &str) {
    let ours = format!("{ROOT}/etc-{file}");
    fs::write(&ours, text).expect("/run is ours");
    run("mount", &["--bind", &ours, &format!("/etc/{file}")], "");
}

/// How many users there are.
fn users() -> u64 {
    let map = fs::read_to_string("/proc/self/uid_map").expect("a map of users");
    map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum()
}

/// Runs a program that must succeed, with `input`; its output.
#[track_caller]
pub fn run(program: &str, args: &[&str], input: &str) -> Output {
    let output = try_run(program, args, input);
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}{}\n{input}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn try_run(program: &str, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}: tests/run netns installs what is missing"));
    // A program that fails early does not read it all: what it says then is what matters.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("its output")
}

/// A batch for `ip`, one command a line.
#[track_caller]
pub(crate) fn ip(batch: &str) {
    run("ip", &["-batch", "-"], batch);
}

/// The same, for taking things away: what is gone already is no failure.
pub(crate) fn try_ip(batch: &str) {
    try_run("ip", &["-force", "-batch", "-"], batch);
}

/// Lines of `/etc/hosts`. Readers may be anywhere in the file at any time, so what stands there never moves: a line is
/// added at the end, or struck out by its first byte.
static LINES: Mutex<()> = Mutex::new(());

/// Makes `names` mean `ip`, for all processes of the ring, until [`forget_name`].
pub(crate) fn add_name(line: &str) {
    let _lock = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    let mut file = OpenOptions::new().append(true).open("/etc/hosts").expect("it is ours");
    file.write_all(format!("{line}\n").as_bytes()).expect("memory for a line");
}

pub(crate) fn forget_name(line: &str) {
    let _lock = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    let text = fs::read_to_string("/etc/hosts").expect("it is ours");
    let Some(at) = text.find(&format!("\n{line}\n")) else { return };
    let file = OpenOptions::new().write(true).open("/etc/hosts").expect("it is ours");
    file.write_all_at(b"#", at as u64 + 1).expect("it is ours");
}
