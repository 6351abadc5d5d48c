//! MariaDB, whose server speaks first, and PostgreSQL, whose client does, with their own clients: a megabyte in and out,
//! statements in numbers, errors, notifications between sessions, and PostgreSQL's TLS of its own inside of the mesh's.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use lacewing_tests::net::daemons::{PASSWORD, client, mariadb, postgres, talk_text};

use crate::peers::{Site, Way};

/// Bytes of the value that goes in and out, as twice as many hexadecimal digits.
const LARGE: usize = 1 << 20;
/// For one line of an answer.
const LINE: Duration = Duration::from_secs(10);

fn hex() -> String {
    (0..LARGE).map(|at| format!("{:02X}", at.wrapping_mul(2_654_435_761) >> 7 & 0xFF)).collect::<Vec<_>>().concat()
}

fn mysql(way: &Way<'_>) -> Command {
    let mut command = client(way.host(), "mariadb");
    command.args(["--no-defaults", "--protocol=tcp", "--user=app", "--batch", "--skip-column-names", "--binary-mode"]);
    command.args([&format!("--password={PASSWORD}"), &format!("--host={}", way.service), "--port=3306", "shop"]);
    command.arg("--max-allowed-packet=64M");
    command
}

/// What a client says and what it complains of, however it ends.
fn talk_anyhow(mut command: Command, input: &str) -> (String, String) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a client");
    // One that is refused does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn mariadb_sessions() {
    let site = Site::new(&[(3306, 3306)], |host| vec![mariadb(host, 3306)]);
    let large = hex();
    for way in site.ways() {
        let table = format!("t{}", way.name.replace(' ', "_"));
        way.carries_tcp(4, || {
            let sql = format!(
                "CREATE TABLE {table} (id INT PRIMARY KEY, data LONGBLOB);\nINSERT INTO {table} VALUES (1, X'{large}');\n\
                 SELECT LENGTH(data) FROM {table};\nSELECT HEX(data) FROM {table};\n"
            );
            let answer = talk_text(mysql(&way), &sql);
            assert!(answer == format!("{LARGE}\n{large}"), "{}: {} characters, or others", way.name, answer.len());

            let many = (2..502).map(|id| format!("INSERT INTO {table} VALUES ({id}, 'small');\n")).collect::<Vec<_>>().concat();
            let sql = format!("{many}SELECT COUNT(*), SUM(id) FROM {table};\n");
            assert_eq!(talk_text(mysql(&way), &sql), "501\t125751", "{}", way.name);

            let mut refused = mysql(&way);
            refused.args(["--password=wrong", "--execute=SELECT 1"]);
            let (_, errors) = talk_anyhow(refused, "");
            assert!(errors.contains("Access denied for user 'app'@"), "{}: {errors}", way.name);

            let mut broken = mysql(&way);
            broken.arg("--force");
            let (said, errors) = talk_anyhow(broken, "SELEKT;\nSELECT 'after an error';\n");
            assert!(errors.contains("You have an error in your SQL syntax"), "{}: {errors}", way.name);
            assert_eq!(said.trim(), "after an error", "{}", way.name);
        });
    }
}

fn psql(way: &Way<'_>, ssl: &str) -> Command {
    let mut command = client(way.host(), "psql");
    command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]);
    command.arg(format!("host={} port=5432 user=app dbname=postgres sslmode={ssl}", way.service));
    command.env("PGPASSWORD", PASSWORD);
    command
}

#[test]
fn postgres_sessions() {
    let site = Site::new(&[(5432, 5432)], |host| vec![postgres(host, 5432)]);
    let large = hex().to_lowercase();
    for way in site.ways() {
        for ssl in ["disable", "require"] {
            let table = format!("{}_{ssl}", way.name.replace(' ', "_"));
            way.carries_tcp(4, || {
                let sql = format!(
                    "CREATE TABLE {table} (id INT PRIMARY KEY, data BYTEA);\n\
                     INSERT INTO {table} VALUES (1, decode('{large}', 'hex'));\n\
                     SELECT length(data) FROM {table};\nSELECT encode(data, 'hex') FROM {table};\n\
                     SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid();\n"
                );
                let answer = talk_text(psql(&way, ssl), &sql);
                let tls = if ssl == "require" { 't' } else { 'f' };
                let right = answer == format!("{LARGE}\n{large}\n{tls}");
                assert!(right, "{} {ssl}: {} characters, or others", way.name, answer.len());

                let rows = (2..20_002).map(|id| format!("{id}\t\\\\x00ff\n")).collect::<Vec<_>>().concat();
                let sql = format!("COPY {table} FROM STDIN;\n{rows}\\.\nSELECT count(*), sum(id) FROM {table};\n");
                assert_eq!(talk_text(psql(&way, ssl), &sql), "20001|200030001", "{} {ssl}", way.name);
                notifications(&way, ssl);
            });
        }
    }
}

/// A `psql` that is written to line by line.
struct Session {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Session {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (heard, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| heard.send(line)));
        Self { child, lines }
    }

    fn say(&mut self, sql: &str) {
        let mut stdin = self.child.stdin.as_ref().unwrap();
        writeln!(stdin, "{sql}").unwrap();
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(LINE).expect("a line")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// One session listens, another notifies.
fn notifications(way: &Way<'_>, ssl: &str) {
    let mut listener = Session::start(psql(way, ssl));
    listener.say("LISTEN news; SELECT 'listening';");
    assert_eq!(listener.line(), "listening");
    talk_text(psql(way, ssl), "NOTIFY news, 'it''s here';\n");
    // psql says what came when it has a statement to run.
    listener.say("SELECT 'asked';");
    let said = [listener.line(), listener.line()].join(" ");
    assert!(said.contains("asked") && said.contains("\"news\" with payload \"it's here\""), "{}: {said}", way.name);
}
