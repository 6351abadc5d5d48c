//! Servers that speak first, on ports that nothing is said about: mail by aiosmtpd and smtplib, and how much later than
//! without the mesh a session of MariaDB or of the mail server opens, at first and later.
#![allow(clippy::print_stdout, reason = "figures")]

use std::{
    fs,
    io::Read,
    net::{SocketAddr, ToSocketAddrs},
    time::{Duration, Instant},
};

use lacewing_tests::net::{
    Host, Process,
    daemons::{mariadb, script, script_client, serve, talk_text},
};

use crate::peers::{Site, Way, median};

/// The mail server's port: not 25, which other meshes know by heart.
const MAIL: u16 = 2525;
/// Services' ports that are each opened for the first time once.
const FIRST_TIMES: [u16; 7] = [3301, 3302, 3303, 3304, 3305, 3306, 3307];
/// Sessions of which the later ones' median is taken.
const LATER: usize = 25;
/// What the mesh may add to the opening of a session, first and later; the aim is half of it.
const ADDED_MAX: Duration = Duration::from_millis(100);

fn mail(host: &Host, port: u16) -> Process {
    let mut server = script(host, "smtp_server.py");
    server.arg(port.to_string()).arg(&host.dir);
    serve(host, "mail", server, port)
}

#[test]
fn mail_arrives_whole() {
    let site = Site::new(&[(MAIL, MAIL)], |host| vec![mail(host, MAIL)]);
    for way in site.ways() {
        let recipient = way.name.replace(' ', "-");
        let mut client = script_client(way.host(), "smtp_client.py");
        client.args([&way.service, &MAIL.to_string(), &recipient]);
        assert_eq!(way.carries_tcp(1, || talk_text(client, "")), "sent", "{}", way.name);
        let kept = |size: &str| {
            let path = way.to.host.dir.join(format!("{recipient}-{size}"));
            fs::read_to_string(path).expect("a message was kept").replace("\r\n", "\n")
        };
        assert_eq!(kept("small"), "app@shop\nSubject: small\n\n.a line that starts with a dot\n", "{}", way.name);
        let lines =
            (0..40_000).map(|number| format!("line {number} of a large message\n")).collect::<Vec<_>>().concat();
        assert!(kept("large") == format!("app@shop\nSubject: large\n\n{lines}"), "{}: another message", way.name);
    }
}

/// From the client's wish to connect to the server's first words.
fn opening(way: &Way<'_>, port: u16, words: &[u8]) -> Duration {
    let to: SocketAddr = (way.service.as_str(), port).to_socket_addrs().unwrap().next().unwrap();
    way.host().enter(|| {
        let started = Instant::now();
        let mut socket = std::net::TcpStream::connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut greeting = [0; 256];
        let length = socket.read(&mut greeting).unwrap();
        let took = started.elapsed();
        let said = &greeting[..length];
        assert!(said.windows(words.len()).any(|part| part == words), "{}: {said:?}", way.name);
        took
    })
}

/// Medians of the openings of a session: each port's first, and then one port's many.
fn openings(way: &Way<'_>, words: &[u8]) -> [Duration; 2] {
    let first = FIRST_TIMES.map(|port| opening(way, port, words)).to_vec();
    let later = (0..LATER).map(|_| opening(way, FIRST_TIMES[0], words)).collect();
    [median(first), median(later)]
}

fn opens_without_a_stall(server: &str, port: u16, words: &[u8], start: fn(&Host, u16) -> Process) {
    let ports = FIRST_TIMES.map(|first| (first, port));
    let site = Site::new(&ports, |host| vec![start(host, port)]);
    let direct = openings(&site.direct(), words);
    for way in site.ways() {
        let count = FIRST_TIMES.len() + LATER;
        let through = way.carries_tcp(count as u32, || openings(&way, words));
        for (when, through, direct) in [("first", through[0], direct[0]), ("later", through[1], direct[1])] {
            let added = through.saturating_sub(direct);
            println!(
                "{server} greets, {when}, {}: {:.1} ms, without the mesh {:.1} ms: {:.1} ms added",
                way.name,
                through.as_secs_f64() * 1e3,
                direct.as_secs_f64() * 1e3,
                added.as_secs_f64() * 1e3
            );
            assert!(added < ADDED_MAX, "{server}, {when}, {}: {added:?} added", way.name);
        }
    }
}

#[test]
fn mariadb_greets_without_a_stall() {
    opens_without_a_stall("MariaDB", 3306, b"-MariaDB", mariadb);
}

#[test]
fn mail_server_greets_without_a_stall() {
    opens_without_a_stall("aiosmtpd", MAIL, b"220 ", mail);
}
