//! Programs that nobody here wrote, on a host: servers and clients as Debian ships them, and scripts in `tests/peers` on
//! libraries from PyPI and npm. `tests/run netns` unpacks what the machine lacks into a folder beside the build results, so
//! that nothing is installed as a service. All run as the apps' user, keep their data in `host.dir`, and end with the
//! host. A missing one fails the test.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    Host, Process,
    ring::{APP_UID, ring},
};
use crate::wait::until;

/// From start to the first connection, on a loaded machine.
const START: Duration = Duration::from_secs(30);
/// Seconds that a client may take; then it is killed, and the test fails.
const CLIENT_SECONDS: &str = "60";
/// Password of the user `app` in every database.
pub const PASSWORD: &str = "between us";

/// A program of somebody else as a command on `host`, as the apps' user.
///
/// # Panics
/// It is neither unpacked nor installed.
pub fn peer(host: &Host, program: &str) -> Command {
    let path = locate(program);
    let mut command = as_app(host, path.as_os_str());
    let unpacked = unpacked();
    if path.starts_with(&unpacked) {
        let libraries: Vec<PathBuf> = matching(&unpacked.join("usr/lib"), "-linux-gnu");
        command.env("LD_LIBRARY_PATH", env::join_paths(libraries).expect("paths without colons"));
    }
    command
}

/// The same for a client, which is killed if it takes too long.
pub fn client(host: &Host, program: &str) -> Command {
    bounded(&peer(host, program))
}

/// A script of `tests/peers`, by the interpreter that its name asks for: a server.
pub fn script(host: &Host, name: &str) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name);
    let python = env::var_os("LACEWING_TEST_PYTHON").expect("LACEWING_TEST_PYTHON is set by `tests/run netns`");
    let mut command = if Path::new(name).extension().is_some_and(|extension| extension == "py") {
        as_app(host, &python)
    } else {
        as_app(host, "node".as_ref())
    };
    command.arg(path).env("NODE_PATH", peers().join("npm/node_modules")).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// The same for a client, which is killed if it takes too long.
pub fn script_client(host: &Host, name: &str) -> Command {
    bounded(&script(host, name))
}

/// Runs a client to its good end, with `input`; what it printed.
#[track_caller]
pub fn talk(mut command: Command, input: &[u8]) -> Vec<u8> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input)); // it may end before it has read all
        child.wait_with_output().expect("the client ends")
    });
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let start: String = said.chars().take(2_000).collect();
    assert!(output.status.success(), "{command:?}: {}\n{errors}\n{start}", output.status);
    output.stdout
}

/// The same where text is printed; without white space around it.
#[track_caller]
pub fn talk_text(command: Command, input: &str) -> String {
    String::from_utf8(talk(command, input.as_bytes())).expect("text").trim().to_owned()
}

/// Starts a server, and waits until it takes connections on loopback, where no proxy is in the way.
#[track_caller]
pub fn serve(host: &Host, name: &str, command: Command, port: u16) -> Process {
    let process = host.start(name, command);
    let address: SocketAddr = (Ipv4Addr::LOCALHOST, port).into();
    until(&format!("{name} on {} takes connections", host.name), START, || {
        assert!(process.is_running(), "{name} ended:\n{}", process.log());
        host.enter(|| TcpStream::connect(address)).ok()
    });
    process
}

/// MariaDB with a database `shop` that user `app` may use.
pub fn mariadb(host: &Host, port: u16) -> Process {
    let program = locate("mariadb-install-db");
    let base = program.ancestors().nth(2).expect("it lies in a folder");
    let data = host.dir.join("mariadb");
    let small = ["--no-defaults", "--skip-name-resolve", "--innodb-log-file-size=4M"];
    let mut install = client(host, "mariadb-install-db");
    install.args(small).args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
    // Its temporary tables are named by process and thread: two of them in one folder take each other's away.
    talk(setting(install, &[("--basedir", base), ("--datadir", &data), ("--tmpdir", &host.dir)]), b"");
    let users = host.dir.join("users.sql");
    let sql = format!(
        "CREATE DATABASE shop; CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON shop.* TO app@'%';\n"
    );
    fs::write(&users, sql.replace("; ", ";\n")).expect("the host's directory is ours");
    let mut server = peer(host, "mariadbd");
    // A client that only looks at the greeting is an error to it, and too many are shut out.
    server.args(small).args(["--bind-address=*", "--innodb-buffer-pool-size=8M", "--max-connect-errors=1000000"]);
    server.arg(format!("--port={port}"));
    let folders = [
        ("--datadir", data.clone()),
        ("--tmpdir", host.dir.clone()),
        ("--socket", data.join("socket")),
        ("--init-file", users),
        ("--lc-messages-dir", base.join("share/mysql")),
        ("--character-sets-dir", base.join("share/mysql/charsets")),
        ("--plugin-dir", base.join("lib/mysql/plugin")),
    ];
    let folders = folders.each_ref().map(|(name, path)| (*name, path.as_path()));
    serve(host, "mariadb", setting(server, &folders), port)
}

/// PostgreSQL with a database `app` of user `app`; TLS is there for clients that ask for it.
pub fn postgres(host: &Host, port: u16) -> Process {
    let (data, password) = (host.dir.join("postgres"), host.dir.join("password"));
    fs::write(&password, PASSWORD).expect("the host's directory is ours");
    let mut init = client(host, "initdb");
    init.args(["--username=app", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "--no-locale"]);
    talk(setting(init, &[("--pgdata", &data), ("--pwfile", &password)]), b"");
    append(&data.join("pg_hba.conf"), "host all all all scram-sha-256\n");
    let [certificate, key] = certificate(host, "postgres");
    let mut settings = format!("port = {port}\nlisten_addresses = '*'\nfsync = off\nssl = on\n");
    let paths = [("unix_socket_directories", &data), ("ssl_cert_file", &certificate), ("ssl_key_file", &key)];
    for (name, path) in paths {
        let _ = writeln!(settings, "{name} = '{}'", path.display());
    }
    append(&data.join("postgresql.conf"), &settings);
    serve(host, "postgres", setting(peer(host, "postgres"), &[("-D", &data)]), port)
}

/// Redis that keeps nothing.
pub fn redis(host: &Host, port: u16) -> Process {
    let mut server = peer(host, "redis-server");
    server.args(["--port", &port.to_string(), "--save", "", "--protected-mode", "no", "--bind", "*", "-::*"]);
    serve(host, "redis", server, port)
}

/// Memcached.
pub fn memcached(host: &Host, port: u16) -> Process {
    let mut server = peer(host, "memcached");
    server.args(["-p", &port.to_string(), "-l", "0.0.0.0,::", "-m", "32"]);
    serve(host, "memcached", server, port)
}

/// nginx with these `server` blocks; `port` is one of theirs. Its folder is `host.dir`.
pub fn nginx(host: &Host, servers: &str, port: u16) -> Process {
    let mut http = String::from("access_log off;\nlarge_client_header_buffers 4 32k;\nkeepalive_requests 1000000;\n");
    for of in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(http, "{of}_temp_path {}/{of};", host.dir.display());
    }
    let config = format!(
        "daemon off;\npid {}/nginx.pid;\nworker_processes 1;\nerror_log stderr;\nevents {{}}\nhttp {{\n{http}{servers}}}\n",
        host.dir.display()
    );
    let path = host.dir.join("nginx.conf");
    fs::write(&path, config).expect("the host's directory is ours");
    let mut server = peer(host, "nginx");
    server.args(["-e", "stderr", "-c"]).arg(&path).arg("-p").arg(&host.dir);
    serve(host, "nginx", server, port)
}

/// HAProxy with these sections after its defaults; `port` is one of theirs.
pub fn haproxy(host: &Host, sections: &str, port: u16) -> Process {
    let defaults = "defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n";
    let path = host.dir.join("haproxy.cfg");
    fs::write(&path, format!("{defaults}{sections}")).expect("the host's directory is ours");
    serve(host, "haproxy", setting(peer(host, "haproxy"), &[("-f", &path)]), port)
}

/// A certificate of `name`, signed by itself, and its key, which only the apps' user may read.
pub fn certificate(host: &Host, name: &str) -> [PathBuf; 2] {
    let files = ["crt", "key"].map(|kind| host.dir.join(format!("{name}.{kind}")));
    let mut openssl = client(host, "openssl");
    openssl.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-subj", "/CN=peer", "-addext", &format!("subjectAltName=DNS:{name}")]);
    openssl.arg("-out").arg(&files[0]).arg("-keyout").arg(&files[1]);
    talk(openssl, b"");
    files
}

/// Where the peers are.
fn peers() -> PathBuf {
    env::var_os("LACEWING_TEST_PEERS").expect("LACEWING_TEST_PEERS is set by `tests/run netns`").into()
}

fn unpacked() -> PathBuf {
    peers().join("debian")
}

#[track_caller]
fn locate(program: &str) -> PathBuf {
    let roots = [unpacked(), PathBuf::from("/")];
    // PostgreSQL's programs lie in folders of their version; what has their names elsewhere only looks for them.
    let mut folders: Vec<PathBuf> =
        roots.iter().flat_map(|root| matching(&root.join("usr/lib/postgresql"), "")).collect();
    for folder in &mut folders {
        folder.push("bin");
    }
    folders.extend(roots.iter().flat_map(|root| ["usr/sbin", "usr/bin"].map(|folder| root.join(folder))));
    let found = folders.into_iter().map(|folder| folder.join(program)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{program} is missing: `tests/run netns` gets what tests need"))
}

/// What lies in `folder` and ends so.
fn matching(folder: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with(end)).collect()
}

/// As the apps' user, who may read what lies in the home of whoever runs the tests. Where there is one user only, he is
/// not to look like root, which database servers refuse.
fn as_app(host: &Host, program: &std::ffi::OsStr) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", host.namespace().display())).current_dir(&host.dir);
    if ring().users {
        command.arg("setpriv").args(["--clear-groups", "--inh-caps=-all,+dac_read_search"]);
        command.args(["--ambient-caps=-all,+dac_read_search"]);
        command.arg(format!("--reuid={APP_UID}")).arg(format!("--regid={APP_UID}"));
    } else {
        command.arg("unshare").arg(format!("--map-user={APP_UID}")).arg(format!("--map-group={APP_UID}"));
    }
    command.arg(program).env("HOME", &host.dir).env("USER", "app").env("LC_ALL", "C.UTF-8");
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command
}

/// The command under `timeout`.
fn bounded(command: &Command) -> Command {
    let mut bounded = Command::new("timeout");
    bounded.args(["--kill-after=1", CLIENT_SECONDS]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bounded.env(name, value),
            None => bounded.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        bounded.current_dir(folder);
    }
    bounded
}

/// Adds settings of the form `--name=path`, or `-n path`.
fn setting(mut command: Command, settings: &[(&str, &Path)]) -> Command {
    for (name, path) in settings {
        if name.starts_with("--") {
            command.arg(format!("{name}={}", path.display()));
        } else {
            command.arg(name).arg(path);
        }
    }
    command
}

fn append(file: &Path, text: &str) {
    let before = fs::read_to_string(file).expect("a file of the server's own making");
    fs::write(file, before + text).expect("the host's directory is ours");
}
